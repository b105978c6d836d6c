import os

# Before Triton is imported: its kernels are then run by its interpreter, on the CPU.
os.environ.setdefault("TRITON_INTERPRET", "1")
