"""The model gets the pixels that a browser shows, for unusual pictures too."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page

from ofa.picture import read
from tests.odd_pictures import ODD

#: The picture as an <img> shows it, on white, as a PNG.
SHOWN = """
async ([kind, data]) => {
  const image = new Image();
  image.src = `data:image/${kind};base64,${data}`;
  await image.decode();
  const canvas = document.createElement('canvas');
  canvas.width = image.naturalWidth;
  canvas.height = image.naturalHeight;
  const context = canvas.getContext('2d');
  context.fillStyle = 'white';
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(image, 0, 0);
  return canvas.toDataURL('image/png').split(',')[1];
}
"""
TOLERANCE = 12  # of 255: browsers smooth the colours of a JPEG, and round otherwise where they mix


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Page]:
    page = browser.new_page()
    yield page
    page.close()


@pytest.mark.parametrize("name", ODD)
def test_a_browser_shows_what_is_judged(name: str, page: Page) -> None:
    data = ODD[name]()
    kind = name.rpartition(".")[2].replace("jpg", "jpeg")
    shown = base64.b64decode(page.evaluate(SHOWN, [kind, base64.b64encode(data).decode()]))
    browsers = np.asarray(Image.open(io.BytesIO(shown)).convert("RGB"), dtype=int)
    ours = np.asarray(read(data).pixels(), dtype=int)
    assert browsers.shape == ours.shape
    assert np.quantile(np.abs(browsers - ours), 0.99) <= TOLERANCE
