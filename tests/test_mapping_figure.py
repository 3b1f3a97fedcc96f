import torch

from loraglm_helpers.mapping import FusedRows
from loraglm_helpers.mapping_figure import draw_split, fused_order


def test_the_blocks_drawn_are_the_rows_that_are_split():
    for rows in (FusedRows(4, 2, 3), FusedRows(4, 4, 3, per_head=True)):
        order = fused_order(rows)
        fused = torch.arange(len(order)).repeat_interleave(rows.head_dim)
        for part, weight in zip("qkv", rows.split(fused), strict=True):
            numbers = [number for number, block in enumerate(order) if block[0] == part]
            assert weight.view(-1, rows.head_dim)[:, 0].tolist() == numbers
            assert [order[n][1] for n in numbers] == list(range(len(numbers)))


def test_the_picture_names_every_block_and_size():
    figure = draw_split(FusedRows(4, 2, 16), FusedRows(2, 2, 16, per_head=True))
    first, second = figure.axes
    texts = [text.get_text() for text in first.texts]
    assert [texts.count(name) for name in ("q4", "k2", "v2", "k3")] == [2, 2, 2, 0]
    assert {"q_proj\n64 rows", "k_proj\n32 rows", "128 rows"} <= set(texts)
    assert first.get_title("left") == "multi_query_attention: true"
    assert "96 rows" in [text.get_text() for text in second.texts]
