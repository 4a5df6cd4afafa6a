"""`python -m experiments.char_lm.hello`: the smallest character model there is.

Four characters h, e, l, o as one-hot vectors, three hidden units, one word. From "hell" the net
learns "ello": each letter predicts the next. After the first l comes another l, after the second
comes o, so the letter alone does not say what follows: the hidden state has to.

Source: the example of Karpathy, "The unreasonable effectiveness of recurrent neural networks" (2015).
"""

import jax
import jax.numpy as jnp
import optax

import recurrent_jax as rj

LETTERS = "helo"


def train(steps: int = 200, seed: int = 0) -> tuple[jax.Array, jax.Array]:
    """Learns the word.

    Returns:
      The loss before each of `steps` updates, in nats per character, and the probabilities `[4, 4]`
      of the letters of `LETTERS` (columns) behind each letter of "hell" (rows) after the last.
    """
    word = jnp.array([LETTERS.index(letter) for letter in "hello"])
    inputs, targets = jax.nn.one_hot(word[:-1], len(LETTERS)), word[1:]
    cell = rj.RNN(hidden_size=3)
    key_cell, key_out = jax.random.split(jax.random.key(seed))
    params = {
        "cell": cell.init(key_cell, in_size=len(LETTERS)),
        "out": jax.random.normal(key_out, (cell.hidden_size, len(LETTERS))) / 2,
    }
    optimizer = optax.adam(0.05)

    def logits(params):
        _, ys = rj.unroll(cell, params["cell"], inputs)
        return ys @ params["out"]

    def loss(params):
        return optax.softmax_cross_entropy_with_integer_labels(logits(params), targets).mean()

    def update(state, _):
        params, optimizer_state = state
        value, grads = jax.value_and_grad(loss)(params)
        updates, optimizer_state = optimizer.update(grads, optimizer_state)
        return (optax.apply_updates(params, updates), optimizer_state), value

    (params, _), losses = jax.lax.scan(update, (params, optimizer.init(params)), length=steps)
    return losses, jax.nn.softmax(logits(params))


def main() -> None:
    """Prints what the net has learned."""
    losses, probabilities = train()
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f} nats per character\n")
    print("reads  p(" + ")  p(".join(LETTERS) + ")  so it writes")
    for letter, row in zip("hell", probabilities, strict=True):
        print(f"{letter:>5}  " + " ".join(f"{p:5.2f}" for p in row) + f"  {LETTERS[int(row.argmax())]:>7}")


if __name__ == "__main__":
    main()
