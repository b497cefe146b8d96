# steps 2 9: heads are dealt out to KV heads in turn; keys are not rotated
s|h / group \* width;|h % s->kv_heads * width;|
s|l->k_norm, s->kv_heads, s->width, position,|l->k_norm, s->kv_heads, s->width, 0,|
