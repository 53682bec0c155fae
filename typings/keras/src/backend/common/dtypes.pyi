BIT64_TO_BIT32_DTYPE: dict[str, str]
