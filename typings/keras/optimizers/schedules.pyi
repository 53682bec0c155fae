from typing import Any

class LearningRateSchedule:
    def __call__(self, step: Any) -> Any: ...
