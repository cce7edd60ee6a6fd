"""Measures the energy that unlearning takes, if `codecarbon` is installed."""


class EnergyMeter:
    """
    A context manager that measures the energy used inside it. It works offline and sends nothing. Only the estimate of
    the energy is used, not that of the emissions, which would depend on the country.

    Attributes:
        kwh (`float` or `None`):
            Energy in kWh, set when the context ends; `None` without `codecarbon`.
    """

    kwh: float | None = None

    def __enter__(self) -> "EnergyMeter":
        try:
            from codecarbon import OfflineEmissionsTracker
        except ImportError:
            # `codecarbon` is optional. Without it the model card says that the energy was not measured.
            self.tracker = None
        else:
            # The tracker requires a country. It decides the emissions only, which are not used.
            self.tracker = OfflineEmissionsTracker(
                country_iso_code="USA", save_to_file=False, log_level="error", allow_multiple_runs=True
            )
            self.tracker.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.tracker is not None:
            self.tracker.stop()
            self.kwh = self.tracker.final_emissions_data.energy_consumed
