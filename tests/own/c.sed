# steps 5 6: of equal scores the higher block; the local block is read to its end
s|scores\[b\] > scores\[best\]|scores[b] >= scores[best]|
s|(ids\[a\] + 1) \* s->block && j < n; j++|(ids[a] + 1) * s->block; j++|
