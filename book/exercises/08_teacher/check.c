/* Loss and gradient of one group of 4 heads for every query, against msa_kl with full support. The
 * gradient to the index queries is made from the student's by the chain rule. */
#include "task.h"

#include <float.h>

static const msa_shape shape = {30, 30, 4, 1, 16, 16, 8, 4, 1, NULL, NULL, NULL, NULL};

static void logits(const inputs *in, int64_t i, double *main, double *index)
{
    const int d = shape.d_head, di = shape.d_index;
    for (int64_t j = 0; j <= i; j++) {
        index[j] = dot_product(in->qi + i * di, in->ki + j * di, di) / sqrt(di);
        for (int h = 0; h < shape.n_heads; h++)
            main[h * (i + 1) + j] =
                dot_product(in->q + (i * shape.n_heads + h) * d, in->k + j * d, d) / sqrt(d);
    }
}

static void chain(const inputs *in, int64_t i, const double *gradient, float *dqi)
{
    const int di = shape.d_index;
    for (int c = 0; c < di; c++) {
        double sum = 0;
        for (int64_t j = 0; j <= i; j++)
            sum += gradient[j] * (double)in->ki[j * di + c];
        dqi[i * di + c] = (float)(sum / sqrt(di) / (double)shape.n_q);
    }
}

static void judge(inputs_pattern pattern, touched *seen)
{
    const inputs in = exercise_inputs(&shape, pattern);
    const int64_t n = shape.n_q * shape.d_index;
    float *expected = exercise_floats(n), *found = exercise_floats(n), *dki = exercise_floats(n);
    double loss = 0, expected_loss;
    double *one_loss = answer_wanted(sizeof *one_loss, "the loss");
    void *work = exercise_alloc((int64_t)msa_workspace(NULL, &shape));
    msa_kl(&shape, in.q, in.k, in.qi, in.ki, NULL, NULL, NULL, 1, &expected_loss, expected, dki, work);
    for (int64_t i = 0; i < shape.n_q; i++) {
        const int64_t row_bytes = (i + 1) * (int64_t)sizeof(double);
        double *main = answer_given(shape.n_heads * row_bytes, "main"), *index = answer_given(row_bytes, "index");
        double *gradient = answer_wanted(row_bytes, "gradient");
        logits(&in, i, main, index);
        ANSWER(*one_loss = selector_loss(shape.n_heads, i + 1, main, index, gradient));
        loss += *one_loss / (double)shape.n_q;
        chain(&in, i, gradient, found);
        for (int64_t j = 0; j <= i; j++)
            seen->count[i * seen->columns + j] += (float)fabs(gradient[j]);
    }
    exercise_true(fabs(loss - expected_loss) <= 1e-9 * (1 + expected_loss),
                  "loss, %s inputs: expected %.9g, found %.9g", inputs_pattern_name(pattern), expected_loss,
                  loss);
    exercise_tensor("dqi", (verdict_dims){shape.n_q, 1, shape.d_index}, expected, found,
                    verdict_float32(&shape, &in, ARRAY_DQI, 1));
}

int main(int argc, char **argv)
{
    exercise_begin(argc, argv);
    touched seen = touched_new(shape.n_q, shape.n_kv, "query", "key: size of the gradient");
    judge(INPUTS_NORMAL, &seen);
    judge(INPUTS_PEAKED, &seen);
    return exercise_end(&seen);
}
