"""Data sets of tensorflow-datasets, prepared once and then read without TensorFlow."""

import pathlib
import sys
from typing import Any

from experiments.common.cli import UsageError, brief


def prepared(dataset: str, data_dir: str | None, manual_dir: str | None) -> Any:
    """The builder of a data set that is ready to be read, by `as_data_source`.

    Args:
      dataset: its name in tensorflow-datasets.
      data_dir: where prepared data sets are kept; None is that library's default.
      manual_dir: a folder with the source files, for machines without a network.

    Raises:
      UsageError: it can't be had; the message says what to do.
    """
    import tensorflow_datasets as tfds

    if manual_dir is not None and not pathlib.Path(manual_dir).is_dir():
        raise UsageError(f"--tfds-manual-dir: expected a folder, found no {manual_dir}")
    needs_tensorflow = (
        f"--dataset: tensorflow-datasets needs TensorFlow, once, to prepare {dataset}: "
        "pip install tensorflow-cpu, or give the text itself with --data"
    )
    try:
        # array_record files are read without TensorFlow; most builders need it to write them, once.
        builder = tfds.builder(dataset, data_dir=data_dir, file_format="array_record")
    except ImportError as error:
        raise UsageError(needs_tensorflow) from error
    except Exception as error:  # of many kinds: there is no such data set, or configuration, or version
        raise UsageError(
            f"--dataset: expected a data set of tensorflow-datasets, got {dataset!r}: {brief(error)}"
        ) from error
    names = ", ".join(info.filename for info in (builder.url_infos or {}).values() if info.filename)
    way_out = f"put its source{names and f' ({names})'} into a folder and name that with --tfds-manual-dir"
    if not builder.is_prepared():
        # Where there is no network the library tries again for minutes, and takes no option that says otherwise.
        print(
            f"note: preparing {dataset}, once; without a network, which is noticed only after minutes, {way_out}",
            file=sys.stderr,
        )
    try:
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=manual_dir))
    except ImportError as error:
        raise UsageError(needs_tensorflow) from error
    except Exception as error:  # whatever a failed download raises, the way out is the same
        raise UsageError(f"--dataset: {dataset} can't be had: {brief(error)}; {way_out}") from error
    return builder
