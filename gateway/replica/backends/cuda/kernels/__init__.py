"""Our Triton kernels: Python that Triton compiles, and that its interpreter runs without a GPU."""
