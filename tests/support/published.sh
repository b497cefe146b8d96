# Sourced by scripts of POSIX sh: a checkpoint of MiniMax-M3 of two layers of width 2, in text; its weights are zeros.
m3_sizes='"hidden_size":2,"num_hidden_layers":2,"num_attention_heads":1,"num_key_value_heads":1,"head_dim":2,"index_n_heads":1,"index_head_dim":2'
m3_flat="{\"model_type\":\"minimax_m3_vl\",$m3_sizes,\"partial_rotary_factor\":1,\"layer_types\":[\"full_attention\",\"minimax_m3_sparse\"]}"
m3_nested="{\"model_type\":\"minimax_m3_vl\",\"text_config\":{$m3_sizes,\"rotary_dim\":2,\"sparse_attention_config\":{\"sparse_attention_freq\":[0,1]}}}"

m3_header='' m3_map='' m3_bytes=0 # of its one shard, a.safetensors
for m3_layer in 0 1; do
    m3_parts="input_layernorm self_attn.q_norm self_attn.k_norm self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.o_proj"
    [ "$m3_layer" -eq 0 ] || m3_parts="$m3_parts self_attn.index_q_norm self_attn.index_k_norm self_attn.index_q_proj self_attn.index_k_proj"
    for m3_part in $m3_parts; do
        m3_shape='[2,2]' m3_size=8
        case $m3_part in *norm) m3_shape='[2]' m3_size=4 ;; esac
        m3_name=model.layers.$m3_layer.$m3_part.weight
        m3_header="$m3_header${m3_header:+,}\"$m3_name\":{\"dtype\":\"BF16\",\"shape\":$m3_shape,\"data_offsets\":[$m3_bytes,$((m3_bytes + m3_size))]}"
        m3_map="$m3_map${m3_map:+,}\"$m3_name\":\"a.safetensors\""
        m3_bytes=$((m3_bytes + m3_size))
    done
done
m3_header="{$m3_header}" m3_index="{\"weight_map\":{$m3_map}}"

little_endian() { # number bytes
    value=$1 left=$2
    while [ "$left" -gt 0 ]; do
        # shellcheck disable=SC2059 # the format is the byte
        printf "\\$(printf %03o $((value % 256)))"
        value=$((value / 256)) left=$((left - 1))
    done
}

safetensors_seed() { # json data-bytes: a file whose data are zeros
    little_endian "${#1}" 8
    printf '%s' "$1"
    head -c "$2" /dev/zero
}
