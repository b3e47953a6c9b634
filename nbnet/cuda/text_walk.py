"""Launches over documents: the embedding below, the layers of `nbnet.cuda.walk` above it."""

from __future__ import annotations

from ..cpu.text_walk import DROPOUT_NUMBER
from ..network import Optimizer, Pooling
from . import walk
from .dense import bias_gradient, matrix
from .dropout import dropout_forward
from .embedding import attention_backward, documents_forward, gradient_norms
from .embedding_updates import atomic_step, chosen_norms, embedding_step
from .walk import backward, descend, forward, gradients, loss_of_rows, next_batch


def layers_above(model):
    """The part of the vectors that the optimizer updates as a whole: all but the table."""
    n = model.grads.size
    return model._replace(params=model.params[:n], moments=model.moments[: 2 * n])


def pooled_of(bags, work):
    """The matrices of the pooled vectors and of their slopes, later gradients."""
    stride = bags.embedding.stride
    return matrix(work.inputs, 0, stride), matrix(work.input_slopes, 0, stride)


def pool_batch(queue, bags, plan, work, rule, n_rows):
    """The pooled vectors of a batch, dropout in them, and their slopes."""
    x, grad_x = pooled_of(bags, work)
    documents_forward(queue, bags, plan.batch_of_rows, x, grad_x.data, bags.space.choices, n_rows)
    if bags.layer["dropout"] > 0.0:
        dropout_forward(queue, x, bags.layer, grad_x.data, rule.seed, plan.batch, int(DROPOUT_NUMBER), n_rows)


def document_gradients(queue, bags, plan, work, rule, n_rows):
    """What the embedding's update needs to know of the gradients of a batch."""
    x, grad_x = pooled_of(bags, work)
    embedding, is_adagrad = bags.embedding, rule.optimizer == Optimizer.ADAGRAD
    if is_adagrad and embedding.pooling == Pooling.MAX:
        chosen_norms(queue, bags, plan.batch_of_rows, grad_x, n_rows)
    elif is_adagrad:
        gradient_norms(queue, grad_x, embedding.dim, bags.space.norms, n_rows)
    if embedding.pooling == Pooling.ATTENTION:
        attention_backward(queue, bags, plan.batch_of_rows, x, grad_x, n_rows)


def update_table(queue, bags, plan, work, rule, grads, n_rows):
    """One update of the table's rows; attention's query gets its gradient, for the optimizer, in `grads`."""
    _, grad_x = pooled_of(bags, work)
    document_gradients(queue, bags, plan, work, rule, n_rows)
    if bags.groups is not None:
        embedding_step(queue, bags, grad_x, plan.steps, rule)
    elif not bags.embedding.frozen:
        atomic_step(queue, bags, plan.batch_of_rows, grad_x, plan.steps, rule, n_rows)
    if bags.embedding.pooling == Pooling.ATTENTION:
        bias_gradient(queue, grad_x._replace(data=bags.space.queries), bags.layer, grads, n_rows, False)


def train_step(queue, model, data, work, plan, rule, n_rows):
    """One batch of an epoch; see `walk.train_step`.

    Parameters
    ----------
    model : Model
        The layers above the embedding; its vector has the table behind theirs.
    data : Data
        Its rows are `Bags`: those of the table that the batch touches, and their moments, are updated.
    """
    bags, model = data.rows, layers_above(model)
    pool_batch(queue, bags, plan, work, rule, n_rows)
    forward(queue, model, None, plan.batch, work, work.slopes, rule.seed, n_rows)
    loss_of_rows(queue, model, data.targets, plan, work, rule, n_rows)
    backward(queue, model, work, n_rows)
    update_table(queue, bags, plan, work, rule, model.grads, n_rows)
    gradients(queue, model, None, plan.batch, work, False, n_rows)
    descend(queue, model, plan, work, rule)
    next_batch(queue, plan, n_rows, work.squares)


def pool(queue, bags, batch, x, n_rows):
    """Pooled vectors of the next documents into the rows of x."""
    documents_forward(queue, bags, batch, x, bags.space.none, bags.space.choices, n_rows)


def predict(queue, model, rows, work, plan, loss, out, n_rows):
    """Predictions of the next `n_rows` documents; see `walk.predict`."""
    pool(queue, rows, plan.batch_of_rows, pooled_of(rows, work)[0], n_rows)
    walk.predict(queue, model, None, work, plan, loss, out, n_rows)


def evaluate(queue, model, data, work, plan, rule, n_rows):
    """The loss of the next `n_rows` documents without dropout, left in `plan.losses`."""
    pool(queue, data.rows, plan.batch_of_rows, pooled_of(data.rows, work)[0], n_rows)
    walk.evaluate(queue, model, data._replace(rows=None), work, plan, rule, n_rows)
