"""The paper's layers on tokens ``(T, B, N, C)``."""
