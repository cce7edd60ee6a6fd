"""The energy that the unlearning takes, if `codecarbon` is installed."""


class EnergyMeter:
    """
    Measures from `with` to its end. Nothing is sent or looked up: only the estimate of the energy is taken, which does
    not depend on where the machine stands.

    Attributes:
        kwh (`float`, *optional*): what was used, or `None` without `codecarbon`.
    """

    kwh = None

    def __enter__(self) -> "EnergyMeter":
        try:
            from codecarbon import OfflineEmissionsTracker
        except ImportError:
            # An extra: without it the card says that the energy was not measured.
            self.tracker = None
        else:
            # The country only decides the emissions, which are not taken.
            self.tracker = OfflineEmissionsTracker(
                country_iso_code="USA", save_to_file=False, log_level="error", allow_multiple_runs=True
            )
            self.tracker.start()
        return self

    def __exit__(self, *exc_info) -> None:
        if self.tracker is not None:
            self.tracker.stop()
            self.kwh = self.tracker.final_emissions_data.energy_consumed
