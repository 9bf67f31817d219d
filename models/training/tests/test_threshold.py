"""The thresholding rule: what is dense inside the lungs, smooth and large enough."""

import numpy as np

from triage_models import threshold


def chest():
    """Lungs of 60 x 60 at -850 HU."""
    hu, lungs = np.full((80, 80), 40.0), np.zeros((80, 80), bool)
    lungs[10:70, 10:70] = True
    hu[lungs] = -850
    return hu, lungs


def test_ground_glass_is_found_and_a_vessel_is_not():
    hu, lungs = chest()
    hu[20:44, 20:44] = -400
    hu[50:53, 12:68] = 30
    found = threshold.lesions(hu, lungs)
    assert found[24:40, 24:40].all() and not found[48:, :].any()
    assert abs(int(found.sum()) - 24 * 24) < 60
    assert not threshold.lesions(hu, np.zeros_like(lungs)).any(), "only inside the lungs"


def test_the_bound_itself_is_dense_and_so_is_bone():
    for hu_inside, want in ((-700, True), (-701, False), (300, True), (900, True)):
        hu, lungs = chest()
        hu[20:60, 20:60] = hu_inside
        assert threshold.lesions(hu, lungs)[40, 40] == want, hu_inside


def test_small_components_are_dropped(monkeypatch):
    hu, lungs = np.full((200, 200), -850.0), np.ones((200, 200), bool)
    hu[20:29, 20:29] = 0  # blurred, some pixels of it stay: less than 40, which are 0.1 % of the lungs
    hu[100:150, 100:150] = 0
    found = threshold.lesions(hu, lungs)
    assert not found[:80, :80].any() and found[125, 125]
    monkeypatch.setattr(threshold, "SMALLEST", 0.0)
    assert 0 < threshold.lesions(hu, lungs)[:80, :80].sum() < 40
