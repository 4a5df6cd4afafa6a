"""Shared memory of a block into which all blocks of its cluster store, in PTX: Pallas has it for half as wide stores.

A barrier in shared memory counts the bytes as they come. PTX orders each store before its bytes are counted: whoever
waits for all of them needs no meeting and no fence to read them.
"""

from typing import Any

from recurrent_jax.kernels.mosaic_gpu.block import ptx, swizzled
from recurrent_jax.kernels.mosaic_gpu.tiling import UNITS, Tiling

# Threads of a block, bytes that one stores at a time, and those of a number.
THREADS, WORD, FLOAT = 128, 16, 4


def transforms(tiling: Tiling) -> Any:
    """How parts lie in both places, as whole tiles of eight units."""
    return swizzled(min(128, tiling.rows * FLOAT), FLOAT)


def open_mailbox(posted: Any) -> None:
    """Makes the barrier of a mailbox, eight bytes that wait for one arrival and what it announces."""
    ptx(
        """
        .reg .pred first;
        .reg .b32 thread;
        mov.u32 thread, %tid.x;
        setp.eq.u32 first, thread, 0;
        @first mbarrier.init.shared::cta.b64 [$0], 1;
        fence.mbarrier_init.release.cluster;
        """,
        posted,
    )


def await_posted(posted: Any, parity: Any) -> None:
    """Waits until all that was announced is in the mailbox; `parity` tells odd times from even ones."""
    ptx(
        """
        .reg .pred done;
        again:
        mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [$0], $1;
        @!done bra again;
        """,
        posted,
        number=parity,
    )


def post(parts: Any, mailbox: Any, posted: Any, units: Any, tiling: Tiling) -> None:
    """Begins to store `parts`, those of `units`, in the mailboxes of their owners; then they may be written anew.

    A mailbox `[blocks of the cluster, units of its block, rows]` has a place for each that stores.
    """
    size = UNITS * tiling.rows * FLOAT  # bytes of what is stored at a time, in one mailbox
    count, owned = units.size // UNITS, tiling.block_units // UNITS
    text = f"""
        .reg .pred first;
        .reg .b32 thread, block, part, owner, from;
        mov.u32 thread, %tid.x;
        mov.u32 block, %cluster_ctarank;
        bar.sync 1, {THREADS};
    """
    if units.start == 0:
        text += f"""
        setp.eq.u32 first, thread, 0;
        @first mbarrier.arrive.expect_tx.shared::cta.b64 _, [$2], {tiling.blocks * owned * size};
        """
    loads, stores = "", ""
    for number in range(count):
        # Each begins with another owner, lest all store in one mailbox at a time.
        loads += f"""
        .reg .b32 into{number}, counter{number};
        add.u32 part, block, {number};
        rem.u32 part, part, {count};
        mad.lo.u32 from, part, {size}, $0;
        mad.lo.u32 from, thread, {WORD}, from;
        add.u32 part, part, {units.start // UNITS};
        div.u32 owner, part, {owned};
        rem.u32 part, part, {owned};
        mad.lo.u32 part, block, {owned}, part;
        mad.lo.u32 into{number}, part, {size}, $1;
        mad.lo.u32 into{number}, thread, {WORD}, into{number};
        mapa.shared::cluster.u32 into{number}, into{number}, owner;
        mapa.shared::cluster.u32 counter{number}, $2, owner;
        """
        for start in range(0, size, THREADS * WORD):
            word = f"word{number}at{start}"
            four = ", ".join(word + letter for letter in "abcd")
            loads += f"""
            .reg .b32 {four};
            ld.shared.v4.b32 {{{four}}}, [from + {start}];
            """
            stores += f"""
            st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32
                [into{number} + {start}], {{{four}}}, [counter{number}];
            """
    ptx(f"{text}{loads}{stores}bar.sync 1, {THREADS};", parts, mailbox, posted, lie=transforms(tiling))
