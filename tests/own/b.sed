# steps 1 7: logits without their scale; every group asks with the first one's index query
s|const double scale = 1 / sqrt(width);|const double scale = 1;|
s|qi + r \* s->index_width, ki|qi, ki|
