"""Tables as users have them: the same numbers in many forms, and what is no table of numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse
import torch

NAMES = ["age", "height", "income", "is_member"]


def table(count: int = 40, seed: int = 0) -> np.ndarray:
    """Whole numbers, small enough for every dtype, and zeros and ones in the last column; (count, 4) float64."""
    generator = np.random.default_rng(seed)
    columns = [generator.integers(0, high, count) for high in (90, 100, 120, 2)]
    return np.stack(columns, axis=1).astype(np.float64)


def frame(values: np.ndarray) -> pd.DataFrame:
    """With names and an index of its own."""
    return pd.DataFrame(values, columns=NAMES, index=[f"row{i}" for i in range(len(values))])


#: Forms of a table that hold the same numbers as the array, whose scores they have to get.
FORMS: dict[str, Callable[[np.ndarray], Any]] = {
    "list of lists": lambda values: values.tolist(),
    "tuple of arrays": tuple,
    "DataFrame": frame,
    "DataFrame of int8": lambda values: frame(values).astype("int8"),
    "DataFrame with a bool column": lambda values: frame(values).astype({"is_member": bool}),
    "convert_dtypes": lambda values: frame(values).convert_dtypes(),
    "Float64 and boolean": lambda values: frame(values).astype("Float64").astype({"is_member": "boolean"}),
    "Int64": lambda values: frame(values).astype("Int64"),
    "numbers as objects": lambda values: frame(values).astype(object),
    "categories of numbers": lambda values: frame(values).astype({"age": "category"}),
    "numbers of columns": lambda values: pd.DataFrame(values),
    "strided view": lambda values: np.repeat(values, 2, axis=1)[:, ::2],
    "read-only": lambda values: np.frombuffer(values.tobytes()).reshape(values.shape),
    "big-endian": lambda values: values.astype(">f8"),
    "masked array without a mask": np.ma.masked_array,
}


def with_entry(entry: Any, dtype: Any = object) -> pd.DataFrame:
    """The table with another thing in one place."""
    damaged = frame(table()).astype({"income": dtype})
    damaged.iloc[3, 2] = entry
    return damaged


#: What is refused, with a part of the message.
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "NA": (lambda: with_entry(pd.NA, "Int64"), "got 1 values that are NaN, missing or infinite"),
    "None": (lambda: with_entry(None), "got 1 values that are NaN, missing or infinite"),
    "NaN": (lambda: with_entry(np.nan, float), "got 1 values that are NaN, missing or infinite"),
    "infinity": (lambda: with_entry(np.inf, float), "got 1 values that are NaN, missing or infinite"),
    "text": (lambda: with_entry("much"), "could not convert string to float: 'much', expected real numbers"),
    "a date": (lambda: with_entry(pd.Timestamp(2020, 1, 1)), "expected real numbers"),
    "dates": (lambda: np.full((5, 2), np.datetime64("2020-01-01")), r"dtype datetime64.*, expected real numbers"),
    "CSR": (lambda: scipy.sparse.csr_matrix(table()), "Sparse data was passed.*, expected real numbers"),
    "COO": (lambda: scipy.sparse.coo_array(table()), "Sparse data was passed.*, expected real numbers"),
    "sparse columns": (lambda: frame(table()).astype(pd.SparseDtype(float, 0)), "Sparse data was passed"),
    "masked": (lambda: np.ma.masked_array(table(), mask=table() > 80), "values that are NaN, missing or infinite"),
    "sparse tensor": (lambda: torch.eye(4).to_sparse(), r"got sparse_coo .*, expected a dense tensor"),
    "meta tensor": (lambda: torch.ones(4, 4, device="meta"), "on meta, expected a dense tensor"),
    "column of dates": (lambda: frame(table()).assign(when=pd.Timestamp(2020, 1, 1)), "DateTime64DType"),
    "names twice": (lambda: pd.concat([frame(table())] * 2, axis=1), "Expected unique column names, got: .*age"),
    "ragged": (lambda: [[1.0, 2.0], [3.0]], "expected real numbers"),
    "nothing": (lambda: None, "got dtype object, expected real numbers"),
    "a column": (lambda: frame(table())["age"], r"got shape \(40,\), expected .*Reshape your data"),
    "no rows": (lambda: frame(table())[:0], r"got 0 sample\(s\), 4 feature\(s\)"),
    "no columns": (lambda: frame(table())[[]], "got DataFrame: at least one array or dtype is required"),
}

#: Columns other than the fitted ones, with a part of scikit-learn's message.
OTHER_COLUMNS: dict[str, tuple[Callable[[pd.DataFrame], pd.DataFrame], str]] = {
    "reordered": (lambda data: data[NAMES[::-1]], "Feature names must be in the same order"),
    "missing": (lambda data: data[NAMES[:3]], "Feature names seen at fit time, yet now missing"),
    "new": (lambda data: data.assign(weight=1.0), "Feature names unseen at fit time"),
    "renamed": (lambda data: data.rename(columns={"age": "Age"}), "Feature names unseen at fit time"),
}
