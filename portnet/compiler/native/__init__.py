"""Machine code for a plan, with LLVM: the extra ``native``."""
