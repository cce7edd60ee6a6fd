"""The energy of a run, measured by a double of codecarbon."""

import sys
import types

from hf_unlearn.publication.energy import EnergyMeter


def test_energy_is_that_of_codecarbon_or_none(monkeypatch):
    class Tracker:
        def __init__(self, **settings):
            # Nothing is looked up or left behind.
            assert settings["save_to_file"] is False

        def start(self):
            pass

        def stop(self):
            self.final_emissions_data = types.SimpleNamespace(energy_consumed=0.25)

    monkeypatch.setitem(sys.modules, "codecarbon", types.SimpleNamespace(OfflineEmissionsTracker=Tracker))
    with EnergyMeter() as meter:
        pass
    assert meter.kwh == 0.25
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    with EnergyMeter() as meter:
        pass
    assert meter.kwh is None
