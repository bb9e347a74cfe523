"""What several tests of figures need."""

import matplotlib.pyplot as plt
import pytest


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


@pytest.fixture
def legend(ax):
    """The texts of the legend, read when it is called."""
    return lambda: [text.get_text() for text in ax.get_legend().get_texts()]
