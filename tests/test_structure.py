"""The structure of the package: order of imports, public names, docstrings and doctests."""

import ast
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import portnet

PACKAGE = Path(portnet.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# What each file may import from portnet. Every file must be listed.
ALLOWED = {
    "_typing": set(),
    "_validation": set(),
    "compiler/cuda": set(),
    "compiler/errors": set(),
    "compiler/ir": {"_typing"},
    "compiler/cuda/expressions": {"compiler/errors", "compiler/ir"},
    "compiler/native": set(),
    "compiler/native/llvm": set(),
    "compiler/native/llvm_ir": set(),
    "compiler/native/loader": set(),
    "compiler/native/numpy_c": set(),
    "compiler/settings": set(),
    "compiler/native/object_cache": {"compiler/settings"},
    "compiler/native/jit": {
        "compiler/native/llvm",
        "compiler/native/loader",
        "compiler/native/numpy_c",
        "compiler/native/object_cache",
        "compiler/settings",
    },
    "compiler/signature": set(),
    "compiler/views": {"compiler/ir"},
    "compiler/cuda/fusion": {"compiler/errors", "compiler/ir", "compiler/views"},
    "compiler/schedule": {"compiler/ir", "compiler/views"},
    "compiler/memory": {"compiler/ir", "compiler/schedule", "compiler/views"},
    "data/sources": set(),
    "engine": set(),
    "engine/interrupts": set(),
    "engine/ranks": {"engine/interrupts"},
    "engine/sharded_step": {"_typing"},
    "engine/tree_sum": {"engine/ranks"},
    "estimators/scoring": {"_typing", "_validation"},
    "_numpy": set(),
    "tree": {"_numpy", "_typing"},
    "backend": {"_numpy", "_typing", "_validation"},
    "rng": {"_typing", "backend"},
    "losses": {"_typing", "_validation", "backend"},
    "metrics": {"_typing", "backend", "losses"},
    "optimizers": {"_typing", "_validation", "backend", "tree"},
    "schedules": {"_typing", "_validation", "backend"},
    "transforms": {"_typing", "_validation", "backend", "optimizers", "tree"},
    "lbfgs": {"_typing", "_validation", "backend"},
    "compiler/simplify": {"_numpy", "compiler/ir", "compiler/views"},
    "compiler/tracer": {"_numpy", "compiler/ir", "tree"},
    "compiler/jax_backend": {"compiler/errors", "compiler/tracer"},
    "compiler/planner": {
        "compiler/errors",
        "compiler/ir",
        "compiler/memory",
        "compiler/schedule",
        "compiler/simplify",
        "compiler/tracer",
        "compiler/views",
    },
    "compiler/batching": {"compiler/errors", "compiler/ir", "compiler/planner"},
    "compiler/cuda/kernels": {
        "compiler/cuda/expressions",
        "compiler/cuda/fusion",
        "compiler/errors",
        "compiler/ir",
        "compiler/memory",
        "compiler/planner",
        "compiler/views",
    },
    "compiler/cuda/gpu": {"compiler/cuda/kernels", "compiler/native/object_cache"},
    "compiler/cuda/planning": {
        "compiler/cuda/fusion",
        "compiler/cuda/kernels",
        "compiler/errors",
        "compiler/ir",
        "compiler/memory",
        "compiler/planner",
        "compiler/simplify",
        "compiler/views",
    },
    "compiler/cuda/explain": {"compiler/cuda/kernels", "compiler/cuda/planning", "compiler/views"},
    "compiler/cuda/graph": {"compiler/cuda/kernels", "compiler/cuda/planning"},
    "compiler/cuda/selftest": {
        "_numpy",
        "compiler/cuda/gpu",
        "compiler/cuda/graph",
        "compiler/cuda/planning",
        "compiler/errors",
        "compiler/ir",
        "compiler/simplify",
        "compiler/tracer",
    },
    "compiler/explain": {"compiler/planner"},
    "compiler/native/lowering": {
        "compiler/ir",
        "compiler/memory",
        "compiler/native/jit",
        "compiler/native/llvm_ir",
        "compiler/native/numpy_c",
        "compiler/planner",
        "compiler/schedule",
        "compiler/views",
    },
    "compiler/native/plan_text": {
        "compiler/ir",
        "compiler/memory",
        "compiler/planner",
        "compiler/schedule",
    },
    "compiler/native/scan": {
        "compiler/memory",
        "compiler/native/jit",
        "compiler/native/lowering",
        "compiler/native/numpy_c",
        "compiler/native/plan_text",
        "compiler/planner",
    },
    "compiler/native/background": {
        "compiler/native/llvm",
        "compiler/native/plan_text",
        "compiler/native/scan",
    },
    "compiler/native_policy": {
        "compiler/ir",
        "compiler/native/jit",
        "compiler/native/loader",
        "compiler/planner",
        "compiler/settings",
    },
    "compiler/numpy_codegen": {
        "_numpy",
        "compiler/ir",
        "compiler/memory",
        "compiler/planner",
        "compiler/schedule",
        "compiler/views",
    },
    "compiler/replay": {"compiler/errors", "compiler/memory", "compiler/planner"},
    "compiler/executable": {
        "compiler/errors",
        "compiler/explain",
        "compiler/native/background",
        "compiler/native/jit",
        "compiler/native/lowering",
        "compiler/native/scan",
        "compiler/native_policy",
        "compiler/numpy_codegen",
        "compiler/planner",
        "compiler/replay",
        "compiler/settings",
        "compiler/signature",
        "compiler/simplify",
    },
    "compiler/api": {
        "compiler/errors",
        "compiler/executable",
        "compiler/jax_backend",
        "compiler/signature",
    },
    "compiler": {"compiler/api", "compiler/errors", "compiler/settings"},
    "data/checks": {"_typing", "_validation", "backend", "losses", "metrics", "tree"},
    "data/dataset": {"_typing", "backend"},
    "data/labels": {"_typing", "backend", "data/checks", "data/dataset", "losses"},
    "data/sources/order": {"_typing", "rng"},
    "data/sources/parquet": {"_typing", "_validation", "data/checks"},
    "data/sources/reading": {"_typing", "backend", "data/checks", "data/labels"},
    "data/sources/dataset": {
        "_typing",
        "backend",
        "data/checks",
        "data/dataset",
        "data/labels",
        "data/sources/order",
        "data/sources/reading",
        "rng",
    },
    "data/sources/windows": {
        "_typing",
        "_validation",
        "data/dataset",
        "data/sources/dataset",
        "data/sources/order",
    },
    "data/split": {"backend", "data/checks", "data/dataset", "data/labels", "rng"},
    "engine/compile_cache": {"backend", "compiler", "compiler/native_policy"},
    "engine/epoch_state": {"_typing", "backend", "data/dataset", "rng"},
    "engine/epoch_scan": {"_typing", "compiler", "engine/epoch_state"},
    "engine/inference": {"_typing", "backend", "data/dataset", "engine/compile_cache", "tree"},
    "engine/loss_sums": {"_typing", "backend"},
    "engine/rank_checks": {"_typing", "backend", "engine/ranks", "tree"},
    "engine/row_orders": {"_typing", "rng"},
    "optimizer_checks": {"_typing", "_validation", "backend", "optimizers", "rng", "tree"},
    "estimators/optimizers": {"_typing", "backend", "optimizers", "tree"},
    "estimators/parameters": {"transforms"},
    "cli": set(),
    "cli/progress": set(),
    "cli/report": {
        "_validation",
        "compiler/cuda/selftest",
        "compiler/errors",
        "compiler/native_policy",
        "compiler/settings",
    },
    "cli/scores": {"_validation"},
    "distributed": {"engine/ranks"},
    "distributed/supervisor": set(),
    "distributed/watchdog": set(),
    "distributed/nccl": {"distributed/watchdog"},
    "distributed/mpi": {
        "_validation",
        "distributed/nccl",
        "distributed/supervisor",
        "distributed/watchdog",
        "engine/ranks",
    },
    "distributed/__main__": {
        "distributed/mpi",
        "distributed/supervisor",
        "distributed/watchdog",
        "engine/ranks",
    },
    "evaluation": {"_typing", "losses", "metrics"},
    "exchange/errors": set(),
    "exchange/batch_trace": {
        "_typing",
        "compiler/ir",
        "compiler/simplify",
        "compiler/tracer",
        "exchange/errors",
    },
    "exchange/graph": {"exchange/errors"},
    "exchange/patterns": {"_typing", "compiler/ir"},
    "exchange/operators": {
        "_typing",
        "compiler/ir",
        "exchange/batch_trace",
        "exchange/graph",
        "exchange/patterns",
    },
    "files/code_checksum": {"backend"},
    "files/errors": set(),
    "files/atomic": {"files/errors"},
    "data/sources/npy": {
        "_typing",
        "data/checks",
        "data/labels",
        "data/sources/reading",
        "files/atomic",
    },
    "data": {"data/sources/npy", "data/sources/parquet"},
    "estimators/inputs": {"_typing", "backend", "data", "data/labels", "data/sources/reading"},
    "files/container": {"files/errors"},
    "files/description": {"files/container", "files/errors"},
    "files/encoding": {"backend", "files/errors", "metrics"},
    "files/generators": {"files/errors"},
    "progress": set(),
    "summary": {"_typing", "_validation", "backend", "rng", "tree"},
    "layers": {"_typing", "_validation", "backend", "rng", "summary"},
    "engine/full_batch": {
        "_typing",
        "backend",
        "data/dataset",
        "engine/compile_cache",
        "layers",
        "tree",
    },
    "engine/packing": {"_typing", "backend", "layers", "tree"},
    "engine/eager_executor": {
        "_typing",
        "compiler",
        "engine/epoch_state",
        "engine/loss_sums",
        "engine/packing",
    },
    "engine/gradient_shapes": {"_typing", "engine/packing", "layers", "tree"},
    "engine/step_executor": {
        "_typing",
        "backend",
        "data/dataset",
        "engine/compile_cache",
        "engine/eager_executor",
        "engine/epoch_scan",
        "engine/epoch_state",
        "engine/packing",
        "rng",
        "tree",
    },
    "engine/epoch_graph": {
        "compiler",
        "compiler/cuda/explain",
        "compiler/cuda/graph",
        "compiler/cuda/planning",
        "compiler/errors",
        "compiler/planner",
        "compiler/simplify",
        "engine/compile_cache",
        "engine/eager_executor",
        "engine/epoch_state",
        "engine/packing",
        "engine/step_executor",
        "rng",
        "tree",
    },
    "engine/sharded_executor": {
        "_typing",
        "backend",
        "data/dataset",
        "engine/compile_cache",
        "engine/eager_executor",
        "engine/epoch_state",
        "engine/packing",
        "engine/ranks",
        "engine/sharded_step",
        "engine/step_executor",
        "engine/tree_sum",
        "rng",
        "tree",
    },
    "engine/epoch": {
        "_typing",
        "backend",
        "compiler/cuda",
        "compiler/errors",
        "engine/compile_cache",
        "engine/eager_executor",
        "engine/epoch_graph",
        "engine/epoch_state",
        "engine/loss_sums",
        "engine/packing",
        "engine/ranks",
        "engine/sharded_executor",
        "engine/step_executor",
        "tree",
    },
    "engine/networks": {
        "_typing",
        "backend",
        "compiler/batching",
        "compiler/jax_backend",
        "engine/compile_cache",
        "engine/eager_executor",
        "engine/epoch",
        "engine/epoch_state",
        "engine/loss_sums",
        "engine/packing",
        "rng",
        "tree",
    },
    "engine/windows": {"_typing", "engine/epoch", "engine/epoch_state"},
    "training": {
        "_typing",
        "_validation",
        "backend",
        "layers",
        "losses",
        "optimizers",
        "rng",
        "tree",
    },
    "gradcheck": {"_typing", "_validation", "backend", "data", "layers", "losses", "rng", "tree"},
    "estimators/idle_executors": {"_typing", "data/dataset", "engine/epoch", "engine/ranks"},
    "estimators/objective": {
        "_typing",
        "backend",
        "data/dataset",
        "engine/sharded_step",
        "estimators/optimizers",
        "layers",
        "losses",
        "optimizers",
        "rng",
        "training",
        "tree",
    },
    "estimators/own_losses": {"_typing", "_validation", "backend", "gradcheck", "losses"},
    "estimators/solvers": {
        "_typing",
        "backend",
        "data/dataset",
        "data/sources/windows",
        "engine/compile_cache",
        "engine/epoch",
        "engine/epoch_state",
        "engine/gradient_shapes",
        "engine/inference",
        "engine/packing",
        "engine/ranks",
        "engine/windows",
        "estimators/idle_executors",
        "estimators/objective",
        "estimators/optimizers",
        "layers",
        "lbfgs",
        "losses",
        "optimizers",
        "rng",
        "transforms",
    },
    "estimators/sparse_dense": {"_typing", "backend", "layers", "rng"},
    "estimators/tasks": {"_typing", "engine/ranks", "estimators/solvers"},
    "estimators/together": {
        "compiler/errors",
        "engine/compile_cache",
        "engine/epoch",
        "engine/epoch_state",
        "engine/interrupts",
        "engine/networks",
        "engine/packing",
        "estimators/solvers",
        "rng",
    },
    "plots": {"_typing", "_validation", "backend", "summary"},
    "exchange/templates": {
        "_typing",
        "exchange/batch_trace",
        "exchange/graph",
        "exchange/operators",
        "layers",
    },
    "files/shapes": {"files/errors", "layers"},
    "perceptron": {
        "_typing",
        "_validation",
        "backend",
        "engine/compile_cache",
        "layers",
        "losses",
        "metrics",
        "rng",
        "tree",
    },
    "estimators/architecture": {"estimators/parameters", "perceptron", "tree"},
    "estimators/coefs": {"_typing", "layers", "perceptron", "rng"},
    "estimators/ensemble": {
        "engine/epoch",
        "engine/ranks",
        "estimators/architecture",
        "estimators/solvers",
        "estimators/together",
    },
    "estimators/heads": {"_typing", "backend", "data", "losses", "perceptron"},
    "estimators/parts": {
        "_typing",
        "backend",
        "data",
        "data/sources",
        "data/sources/dataset",
        "data/sources/order",
        "data/sources/reading",
        "estimators/heads",
        "estimators/inputs",
    },
    "estimators/curves": {
        "_typing",
        "backend",
        "data/dataset",
        "estimators/parts",
        "estimators/scoring",
        "estimators/solvers",
    },
    "estimators/resuming": {"_typing", "estimators/solvers", "perceptron"},
    "estimators/weights": {"_typing", "backend", "perceptron", "tree"},
    "files/predictor": {
        "_typing",
        "backend",
        "data",
        "engine/inference",
        "layers",
        "losses",
        "perceptron",
        "summary",
        "tree",
    },
    "files/estimators": {
        "_validation",
        "files/encoding",
        "files/errors",
        "files/generators",
        "files/predictor",
        "files/shapes",
        "perceptron",
    },
    "files/tables": {"_validation", "files/encoding", "files/errors", "files/estimators"},
    "files/models": {
        "_typing",
        "backend",
        "files/atomic",
        "files/container",
        "files/description",
        "files/encoding",
        "files/errors",
        "files/estimators",
        "files/shapes",
        "files/tables",
        "tree",
    },
    "files": {"_typing", "files/errors", "files/models"},
    "estimators/checkpoints": {
        "_typing",
        "data/dataset",
        "engine/packing",
        "engine/rank_checks",
        "engine/ranks",
        "estimators/solvers",
        "files",
        "files/encoding",
        "files/errors",
        "files/estimators",
        "files/generators",
        "files/models",
        "tree",
    },
    "estimators/fit_data": {
        "_typing",
        "backend",
        "data",
        "data/dataset",
        "data/sources/dataset",
        "estimators/inputs",
    },
    "estimators/validation_sets": {
        "_typing",
        "_validation",
        "backend",
        "data",
        "data/dataset",
        "data/sources/dataset",
        "estimators/curves",
        "estimators/fit_data",
        "estimators/inputs",
        "estimators/parts",
    },
    "estimators/moving": {
        "_typing",
        "backend",
        "estimators/ensemble",
        "tree",
    },
    "estimators/base": {
        "_typing",
        "_validation",
        "backend",
        "data",
        "data/dataset",
        "engine/epoch",
        "engine/packing",
        "engine/rank_checks",
        "engine/ranks",
        "estimators/architecture",
        "estimators/checkpoints",
        "estimators/coefs",
        "estimators/curves",
        "estimators/ensemble",
        "estimators/fit_data",
        "estimators/inputs",
        "estimators/moving",
        "estimators/own_losses",
        "estimators/parameters",
        "estimators/parts",
        "estimators/resuming",
        "estimators/solvers",
        "estimators/sparse_dense",
        "estimators/tasks",
        "estimators/validation_sets",
        "estimators/weights",
        "losses",
        "optimizers",
        "perceptron",
        "summary",
        "tree",
    },
    "estimators/classifier": {
        "_typing",
        "_validation",
        "backend",
        "data",
        "data/checks",
        "estimators/base",
        "estimators/heads",
        "estimators/inputs",
        "estimators/own_losses",
        "estimators/solvers",
        "layers",
        "losses",
        "optimizers",
        "perceptron",
    },
    "estimators/regressor": {
        "_typing",
        "backend",
        "estimators/base",
        "estimators/ensemble",
        "estimators/inputs",
        "estimators/objective",
        "estimators/own_losses",
        "layers",
        "losses",
        "optimizers",
        "perceptron",
    },
    "estimators": {"estimators/classifier", "estimators/regressor"},
    "exchange/scikit": {
        "_validation",
        "backend",
        "estimators",
        "estimators/optimizers",
        "estimators/solvers",
        "exchange/errors",
        "perceptron",
    },
    "files/checkpoint": {
        "_validation",
        "backend",
        "files/atomic",
        "files/code_checksum",
        "files/container",
        "files/encoding",
        "files/errors",
        "files/models",
        "rng",
    },
    "files/show": {"files/container", "files/errors", "files/models"},
    "protocols": {"_typing", "backend", "layers"},
    "recording": {"_typing", "_validation", "layers", "optimizers", "rng", "transforms"},
    "evidence": {
        "_typing",
        "backend",
        "data/dataset",
        "lbfgs",
        "losses",
        "protocols",
        "recording",
        "training",
        "tree",
    },
    "remedies": {"layers", "lbfgs", "optimizers", "protocols", "transforms"},
    "diagnosis": {
        "_typing",
        "_validation",
        "backend",
        "data/dataset",
        "evidence",
        "layers",
        "losses",
        "protocols",
        "remedies",
        "summary",
    },
    "run": {
        "_typing",
        "_validation",
        "backend",
        "data",
        "data/dataset",
        "data/sources/dataset",
        "data/sources/reading",
        "diagnosis",
        "engine/inference",
        "evaluation",
        "files",
        "losses",
        "metrics",
        "plots",
        "protocols",
        "summary",
        "tree",
    },
    "model_checks": {"_typing", "_validation", "backend", "data/dataset", "run"},
    "divergence": {
        "_typing",
        "_validation",
        "backend",
        "data/dataset",
        "diagnosis",
        "evidence",
        "lbfgs",
        "losses",
        "optimizer_checks",
        "run",
    },
    "callbacks": {"_validation", "data/dataset", "metrics", "progress", "run"},
    "preparation": {
        "_typing",
        "_validation",
        "backend",
        "callbacks",
        "data",
        "data/checks",
        "data/dataset",
        "data/sources",
        "data/sources/dataset",
        "data/sources/reading",
        "data/split",
        "engine/full_batch",
        "engine/rank_checks",
        "engine/ranks",
        "files",
        "files/checkpoint",
        "files/errors",
        "files/models",
        "lbfgs",
        "model_checks",
        "protocols",
        "rng",
        "run",
        "tree",
    },
    "batch_fits": {
        "_validation",
        "backend",
        "callbacks",
        "data",
        "data/checks",
        "data/dataset",
        "data/sources/reading",
        "divergence",
        "engine/epoch",
        "engine/epoch_state",
        "engine/interrupts",
        "engine/packing",
        "engine/ranks",
        "lbfgs",
        "model_checks",
        "preparation",
        "progress",
        "protocols",
        "rng",
        "run",
        "training",
        "transforms",
    },
    "exchange/onnx_export": {
        "_typing",
        "_validation",
        "backend",
        "exchange/batch_trace",
        "exchange/errors",
        "exchange/graph",
        "exchange/operators",
        "files/atomic",
        "files/predictor",
        "files/shapes",
        "layers",
        "losses",
        "metrics",
        "run",
        "tree",
    },
    "exchange/onnx_import": {
        "_typing",
        "_validation",
        "backend",
        "exchange/errors",
        "exchange/onnx_export",
        "exchange/templates",
        "layers",
        "losses",
        "metrics",
        "tree",
    },
    "exchange/weights": {
        "_typing",
        "backend",
        "exchange/errors",
        "exchange/onnx_export",
        "layers",
        "rng",
        "tree",
    },
    "exchange": {
        "exchange/errors",
        "exchange/onnx_export",
        "exchange/onnx_import",
        "exchange/scikit",
        "exchange/weights",
    },
    "lr_finder": {
        "_typing",
        "_validation",
        "backend",
        "data/checks",
        "data/dataset",
        "divergence",
        "evidence",
        "lbfgs",
        "optimizers",
        "plots",
        "preparation",
        "protocols",
        "rng",
        "run",
        "summary",
        "training",
    },
    "sharded_step": {
        "_typing",
        "backend",
        "engine/sharded_step",
        "layers",
        "losses",
        "optimizers",
        "rng",
        "training",
        "tree",
    },
    "source_epochs": {
        "data/checks",
        "data/sources/dataset",
        "data/sources/windows",
        "divergence",
        "engine/epoch",
        "engine/epoch_state",
        "engine/packing",
        "engine/windows",
        "preparation",
        "rng",
        "run",
    },
    "trainer": {
        "_typing",
        "_validation",
        "backend",
        "batch_fits",
        "callbacks",
        "data/dataset",
        "divergence",
        "engine/epoch",
        "engine/epoch_state",
        "engine/full_batch",
        "engine/gradient_shapes",
        "engine/inference",
        "engine/interrupts",
        "engine/packing",
        "engine/rank_checks",
        "engine/ranks",
        "engine/row_orders",
        "engine/sharded_step",
        "files/checkpoint",
        "layers",
        "lbfgs",
        "losses",
        "optimizers",
        "preparation",
        "progress",
        "protocols",
        "rng",
        "run",
        "sharded_step",
        "source_epochs",
        "summary",
        "training",
        "transforms",
    },
    "population_epochs": {
        "_typing",
        "backend",
        "callbacks",
        "compiler",
        "compiler/errors",
        "data/dataset",
        "divergence",
        "engine/compile_cache",
        "engine/epoch",
        "engine/epoch_state",
        "engine/interrupts",
        "engine/networks",
        "engine/packing",
        "engine/ranks",
        "layers",
        "lbfgs",
        "preparation",
        "progress",
        "protocols",
        "rng",
        "run",
        "trainer",
        "training",
        "tree",
    },
    "population": {
        "_typing",
        "_validation",
        "backend",
        "callbacks",
        "data/checks",
        "data/dataset",
        "engine/networks",
        "layers",
        "losses",
        "optimizers",
        "population_epochs",
        "preparation",
        "run",
        "trainer",
        "transforms",
    },
    "step_formulas": {"_typing", "_validation", "layers", "optimizers", "recording", "tree"},
    "step_by_step": {
        "_typing",
        "_validation",
        "backend",
        "data",
        "layers",
        "lbfgs",
        "losses",
        "optimizers",
        "recording",
        "rng",
        "step_formulas",
        "training",
        "tree",
    },
    "tables/missing": set(),
    "tables/columns": {"tables/missing"},
    "cli/errors": {"tables/columns"},
    "cli/read": {"_validation", "cli/errors", "tables/columns", "tables/missing"},
    "cli/show": {"cli/errors", "files/show"},
    "tables/labels": {"tables/columns"},
    "cli/target": {
        "_validation",
        "cli/errors",
        "cli/read",
        "tables/columns",
        "tables/labels",
        "tables/missing",
    },
    "tables/transformers": set(),
    "cli/notes": {
        "_validation",
        "cli/errors",
        "tables/columns",
        "tables/missing",
        "tables/transformers",
    },
    "tables/model": {
        "_typing",
        "backend",
        "files",
        "summary",
        "tables/columns",
        "tables/labels",
        "tables/transformers",
    },
    "tables": {"tables/columns", "tables/model"},
    "cli/onnx_columns": {"exchange/graph", "tables", "tables/columns", "tables/transformers"},
    "cli/export": {
        "_validation",
        "cli/errors",
        "cli/onnx_columns",
        "exchange",
        "exchange/errors",
        "exchange/graph",
        "files/atomic",
        "files/container",
        "files/models",
        "tables",
    },
    "cli/predict": {
        "_validation",
        "cli/errors",
        "cli/notes",
        "cli/read",
        "files/atomic",
        "tables",
        "tables/columns",
    },
    "cli/train": {
        "_validation",
        "cli/errors",
        "cli/notes",
        "cli/progress",
        "cli/read",
        "cli/scores",
        "cli/target",
        "estimators",
        "files/atomic",
        "files/models",
        "plots",
        "tables",
        "tables/columns",
    },
    "cli/commands": {
        "cli/errors",
        "cli/export",
        "cli/predict",
        "cli/report",
        "cli/show",
        "cli/train",
    },
    "__main__": {"_validation", "cli/commands", "cli/report", "files", "files/show"},
}
NOT_EXPORTED = (
    "Layer",
    "Optimizer",
    "AdamState",
    "MomentumState",
    "RMSPropState",
    "Reduced",
    "Chained",
    "LBFGSState",
    "Result",
)  # not available as portnet.Name
ARRAY_API_MODULES = (
    "layers",
    "losses",
    "metrics",
    "optimizers",
    "schedules",
    "transforms",
    "lbfgs",
)
ARRAY_LIBRARIES = {"numpy", "cupy", "torch", "jax", "dpnp", "array_api_strict", "scipy"}
# Optional libraries that each file may import, inside functions only.
LAZY = {
    "compiler/api": {"torch"},
    "compiler/jax_backend": {"jax"},
    "plots": {"matplotlib"},
    "progress": {"tqdm"},
    "run": {"pandas"},
    "files/estimators": {"sklearn"},
    "backend": {"cupy", "torch", "jax", "dpnp"},
    "compiler/cuda/gpu": {"cupy", "cuda", "nvmath"},
    "tables/columns": {"pandas"},
    "tables/labels": {"pandas"},
    "tables/model": {"sklearn"},
    "tables/transformers": {"pandas", "sklearn"},
    "data/sources/parquet": {"pyarrow"},
    "exchange/graph": {"onnx"},
    "exchange/onnx_import": {"onnx"},
    "exchange/templates": {"onnx"},
    "exchange/scikit": {"sklearn"},
    "exchange/weights": {"torch"},
    "cli/progress": {"tqdm"},
    "cli/read": {"pandas", "pyarrow"},
    "cli/target": {"pandas", "sklearn"},
    "cli/train": {"matplotlib"},
    "cli/predict": {"pandas"},
    "distributed/mpi": {"mpi4py"},
    "distributed/nccl": {"cupy"},
}
WITH_CLICK = {n for n in ALLOWED if n.startswith("cli/")} - {"cli/report"}


def imports(path):
    """Yield (module, level, whether it is at the top of the file) for every import."""
    parsed = ast.parse(path.read_text())
    top = set(
        ast.walk(
            ast.Module([n for n in parsed.body if isinstance(n, ast.Import | ast.ImportFrom)], [])
        )
    )
    for node in ast.walk(parsed):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.split(".")[0], 0, node in top
        elif isinstance(node, ast.ImportFrom):
            if node.level and node.module is None:
                for alias in node.names:
                    yield alias.name, node.level, node in top
            else:
                module = node.module or ""
                yield module if node.level else module.split(".")[0], node.level, node in top


def name_of(path):
    """Return the name of a file in ALLOWED; __init__.py has the name of its folder."""
    name = path.relative_to(PACKAGE).with_suffix("").as_posix()
    return name.removesuffix("/__init__")


def internal_imports(path):
    """Yield the names of the files of portnet that a file imports."""
    for module, level, _ in imports(path):
        if level:
            folder = path.parents[level - 1]
            target = folder / module.replace(".", "/") if module else folder
            if target.with_suffix(".py").exists() or target.is_dir():
                found = target.relative_to(PACKAGE).as_posix()
                yield "" if found == "." else found


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_file_imports_only_what_is_allowed(path):
    if path == PACKAGE / "__init__.py":
        return
    names = set(internal_imports(path))
    assert names <= ALLOWED[name_of(path)], f"{path} imports {names - ALLOWED[name_of(path)]}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def defined(body):
    """Yield the names of the functions, classes and constants of a file."""
    for line in body:
        if isinstance(line, ast.FunctionDef | ast.ClassDef):
            yield line.name
        if isinstance(line, ast.ImportFrom) and line.module == "numpy":  # portnet/_numpy.py
            yield from (alias.name for alias in line.names)
        targets = [line.target] if isinstance(line, ast.AnnAssign) else getattr(line, "targets", [])
        for target in targets:
            yield from (n.id for n in getattr(target, "elts", [target]) if isinstance(n, ast.Name))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_all_of_a_file_names_what_is_defined_in_it(path):
    if path.name in ("__init__.py", "__main__.py"):
        return
    body = ast.parse(path.read_text()).body
    names = set(defined(body))
    assert "__all__" in names
    (line,) = (n for n in body if list(defined([n])) == ["__all__"])
    assert set(ast.literal_eval(line.value)) <= names


def test_each_protocol_is_defined_in_one_file():
    names = [
        node.name.lstrip("_")
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
        and any(getattr(base, "id", "") == "Protocol" for base in node.bases)
    ]
    assert {"TrainerLike", "RunLike"} <= {*names}
    assert len(names) == len({*names}), sorted(names)


def test_allowed_imports_have_no_cycle():
    seen = []
    for name, needed in ALLOWED.items():
        assert needed - {""} <= set(seen), name
        seen.append(name)


# What each folder may import from the rest of portnet: rooms are independent of those above them.
ROOMS = {
    "compiler/cuda": {"_numpy", "compiler"},
    "compiler/native": {"_typing", "compiler"},
    "compiler": {"_numpy", "_typing", "compiler", "tree"},
    "data": {
        "_typing",
        "_validation",
        "backend",
        "data",
        "files/atomic",  # which knows no data
        "losses",
        "metrics",
        "rng",
        "tree",
    },
    "engine": {"_typing", "backend", "compiler", "data", "engine", "layers", "rng", "tree"},
    "files": {
        "_typing",
        "_validation",
        "backend",
        "data",
        "engine",
        "files",
        "layers",
        "losses",
        "metrics",
        "perceptron",
        "rng",
        "summary",
        "tree",
    },
    "tables": {"_typing", "backend", "files", "summary", "tables"},
    "distributed": {"_validation", "distributed", "engine"},
    "exchange": {
        "_typing",
        "_validation",
        "backend",
        "compiler",
        "data",
        "estimators",
        "exchange",
        "files",
        "layers",
        "perceptron",
        "losses",
        "metrics",
        "rng",
        "run",
        "tree",
    },
}
NEVER = {"trainer", "preparation", "callbacks", "divergence"}  # by the estimators
EMITTERS = {
    "compiler/numpy_codegen",
    "compiler/replay",
    "compiler/executable",
    "compiler/api",
}  # by machine code


@pytest.mark.parametrize("room", ROOMS)
def test_folder_imports_nothing_from_folders_above_it(room):
    for name, needed in ALLOWED.items():
        if name.startswith(room + "/"):
            outside = {
                n for n in needed if not any((n + "/").startswith(r + "/") for r in ROOMS[room])
            }
            assert not outside, f"{name} may import {outside}"


def test_estimators_are_independent_of_the_trainer_and_machine_code_of_numpy_codegen():
    for name, needed in ALLOWED.items():
        if name.startswith("estimators"):
            assert not needed & NEVER, name
        if name.startswith("compiler/native/"):
            assert not needed & EMITTERS, name


@pytest.mark.parametrize("name", ARRAY_API_MODULES)
def test_array_api_modules_import_no_array_library(name):
    modules = {module for module, level, _ in imports(PACKAGE / f"{name}.py") if not level}
    assert not modules & ARRAY_LIBRARIES
    assert "array_api_compat" not in modules


def test_optional_libraries_are_imported_lazily_and_only_where_allowed():
    optional = {
        "cupy",
        "torch",
        "jax",
        "dpnp",
        "array_api_strict",
        "matplotlib",
        "tqdm",
        "sklearn",
        "pandas",
        "click",
        "onnx",
        "pyarrow",
        "mpi4py",
    }
    found = {}
    for path in FILES:
        for module, level, at_top in imports(path):
            if not level and module in optional:
                if path.parent.name == "estimators" and module == "sklearn":
                    continue  # the folder is itself imported lazily: see below
                if module == "click" and name_of(path) in WITH_CLICK:
                    continue  # `portnet` imports none of them, and __main__ asks first
                assert not at_top, f"{path.name} imports {module} at the top"
                found.setdefault(name_of(path), set()).add(module)
    for name, modules in found.items():
        assert modules <= LAZY[name] | {"array_api_strict"}, name


@pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor"])
def test_importing_an_estimator_without_scikit_learn_says_what_to_install(name):
    """portnet itself imports without scikit-learn."""
    code = f"""
import sys
sys.modules["sklearn"] = None
import portnet
try:
    from portnet import {name}
except ImportError as error:
    assert 'pip install ".[sklearn]" in a checkout of portnet' in str(error), error
    assert "{name}" in str(error)
else:
    raise SystemExit("imported")
assert not hasattr(portnet, "MLPTransformer")
from portnet import *
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_all_lists_every_public_name():
    assert sorted(set(portnet.__all__)) == sorted(portnet.__all__)
    for name in portnet.__all__:
        assert hasattr(portnet, name)
    for module in ("layers", "losses", "optimizers", "schedules", "transforms", "lbfgs"):
        module = importlib.import_module(f"portnet.{module}")
        for name, value in vars(module).items():
            own = isinstance(value, type) and value.__module__ == module.__name__
            if own and not name.startswith("_") and name not in NOT_EXPORTED:
                assert name in portnet.__all__, name


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_modules_classes_functions_and_methods_have_docstrings(path):
    """This covers the public names only."""
    parsed = ast.parse(path.read_text())
    assert ast.get_docstring(parsed)
    for node in parsed.body:
        for inner in (node, *(node.body if isinstance(node, ast.ClassDef) else ())):
            if isinstance(inner, ast.FunctionDef | ast.ClassDef) and inner.name[0] != "_":
                assert ast.get_docstring(inner), f"{path.name}: {inner.name}"


def test_doctests_of_every_module_pass():
    import doctest

    skipped = {"__init__", "__main__"}
    if not importlib.util.find_spec("sklearn"):
        skipped |= {"estimators", "scikit"}
    if not importlib.util.find_spec("matplotlib"):
        skipped.add("plots")
    if not (importlib.util.find_spec("pandas") and importlib.util.find_spec("sklearn")):
        skipped.add("tables")
    if "tables" in skipped or not importlib.util.find_spec("click"):
        skipped.add("cli")
    for path in FILES:
        if not {path.stem, path.parent.name} & skipped:
            module = importlib.import_module(f"portnet.{name_of(path).replace('/', '.')}")
            assert doctest.testmod(module).failed == 0, path.name


@pytest.fixture
def bench_table(monkeypatch):
    monkeypatch.syspath_prepend(PACKAGE.parent / "ci")
    return importlib.import_module("bench_table")


def test_table_of_the_guide_equals_the_measured_results(bench_table):
    result = json.loads((PACKAGE.parent / "ci/results/bench-cpu.json").read_text())
    shown = (PACKAGE.parent / "examples/guide/speed.md").read_text().partition(bench_table.BEGIN)[2]
    expected = ["", *bench_table.summary(result), ""]
    assert shown.partition(bench_table.END)[0] == "\n".join(expected)


def test_whole_fits_have_targets_for_the_first_and_the_second_process(bench_table):
    rows = bench_table.ROWS
    assert list(rows)[:5] == ["001", "001-long", "004", "004-shuffled", "003"]
    assert {name for name, row in rows.items() if row.long} == {
        "200000",
        "trainer-long",
        "predict-million",
    }
    for name, row in rows.items():
        assert "portnet" in row.contenders, name
        assert set(row.targets) <= set(row.contenders) - {"portnet"}, name
        assert all(len(targets) == 2 for targets in row.targets.values()), name
    assert rows["001"].targets == {"the document's loop": (1.0, 1.5)}
    assert rows["trainer"].targets == {"torch": (3, 3), "jax": (0.85, 0.85)}


def test_whole_fits_come_first_with_what_was_missed(bench_table):
    result = json.loads((PACKAGE.parent / "ci/results/bench-cpu.json").read_text())
    times = {"portnet first": 2.0, "portnet second": 1.0, "the document's loop": 1.9}
    steps = {who: {"seconds": [t, t + 1]} for who, t in times.items()}
    case = {"part": "whole", "name": "001", "threads": 1, "found": {"steps": steps}}
    result["cases"] = [c for c in result["cases"] if c["part"] != "whole"] + [case]
    headings = [ln for ln in bench_table.table(result).splitlines() if ln.startswith("## ")]
    assert headings[0] == "## Whole fits, in new processes, 1 thread"
    text = "\n".join(bench_table.table(result).splitlines())
    assert "1 of 2 targets met, 1 MISSED." in text
    assert (
        "| the document's loop | 2.00 s | 1.00 s | 1.90 s | 0.95 | >= 1, **MISSED** | 1.90 | "
        ">= 1.5, met |" in text
    )
    shown = bench_table.summary(result)
    assert shown[6].endswith("| 2.00 s | 1.00 s | 1.90 s | the document's loop |")


def test_each_cost_of_files_has_a_target(bench_table):
    parts = importlib.import_module("bench_parts").PARTS
    assert parts["files"][1] == list(bench_table.FILES)
    assert [most for *_, most in bench_table.FILES.values()] == [1.3, 1.5, 1.5, 1.02]


def test_costs_of_files_are_medians(bench_table):
    result = json.loads((PACKAGE.parent / "ci/results/bench-cpu.json").read_text())
    steps = {"portnet": {"seconds": [3.0, 1.0, 1.2]}, "plain": {"seconds": [1.0, 1.1, 0.1]}}
    case = {"part": "files", "name": "load state", "threads": 1, "found": {"steps": steps}}
    result["cases"] = [c for c in result["cases"] if c["part"] != "files"] + [case]
    assert "| 1.20 s | 1.00 s | 1.200 | <= 1.5 | met |" in bench_table.table(result)


def test_contenders_of_a_whole_fit_agree(bench_table, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(PACKAGE.parent), prepend=os.pathsep)
    steps = importlib.import_module("bench_whole").whole("004", 1, 0.0)["steps"]
    assert list(steps) == ["portnet first", "portnet second", "the document's loop"]
    assert steps["portnet second"]["numbers"][0] == pytest.approx(0.3239537158130419)


def test_files_of_tests_have_different_names():
    """pytest imports them by their names alone."""
    names = [path.name for path in (PACKAGE.parent / "tests").rglob("*.py")]
    assert sorted(set(names)) == sorted(names)
