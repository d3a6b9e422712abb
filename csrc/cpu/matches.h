// Which document token each query token matched. Included once per instruction set, in its
// namespace, after maxsim.h.
//
// For the few documents that are shown: one row of the product at a time, by the chains of
// additions that maxsim takes, so that the sum of what a row of `scores` holds is its score to the
// bit.

// Moves best and token to this row where it is higher, or the first NaN.
inline void follow(const float* row, int64_t count, int32_t token, float* best, int32_t* tokens) {
    for (int64_t i = 0; i < count; ++i) {
        const bool takes =
            tokens[i] < 0 || row[i] > best[i] || (row[i] != row[i] && best[i] == best[i]);
        best[i] = takes ? row[i] : best[i];
        tokens[i] = takes ? token : tokens[i];
    }
}

template <int kCount>
struct Width {
    static constexpr int value = kCount;
};

// out[c] = similarity of one row and column c.
template <class T>
void similarities_of_row(Rows row, const float* scale, const Columns& columns, int64_t units,
                         float* out) {
    for (int64_t column = 0; column < columns.count; column += kPanelColumns) {
        const uint32_t* panel = columns.panels + column * units;
        const int32_t* bias = columns.bias + column;
        const auto one = [&](auto width) {
            constexpr int kVectors = decltype(width)::value;
            V s[1][kVectors];
            similarities<T, 1, kVectors>(row, scale, panel, bias, units, s);
            for (int j = 0; j < kVectors; ++j) store(out + column + j * kWidth, s[0][j]);
        };
        switch (panel_vectors(column, columns.count)) {
            case 1:
                one(Width<1>());
                break;
            case 2:
                one(Width<2>());
                break;
            default:
                one(Width<3>());
        }
    }
}

template <class T>
void matches_typed(const MaxSimArgs& args) {
    const Plan<T> plan(args);
    const int64_t query_tokens = args.query_starts[1];
    parallel(args.num_candidates, [&](int64_t k) {
        Work<T> work(plan, args.size);
        int64_t first, end_query;
        const Columns columns = plan.columns(k, first, end_query);
        float* best = args.scores + k * query_tokens;
        int32_t* tokens = args.tokens + k * query_tokens;
        for (int64_t i = 0; i < query_tokens; ++i) {
            best[i] = -__builtin_inff();
            tokens[i] = -1;
        }
        const int64_t start = args.cu_seqlens[plan.document(k)];
        const int64_t end = args.cu_seqlens[plan.document(k) + 1];
        bool sound = true;
        for (int64_t token = start; token < end; ++token) {
            const Rows row =
                read_rows(args, token, 1, token + 1, work.decoded, static_cast<T*>(nullptr), sound);
            const float* scale = args.scales + (sizeof(T) == 1 ? token : 0);
            similarities_of_row<T>(row, scale, columns, plan.units(), work.terms);
            if (!sound)
                for (int64_t i = 0; i < query_tokens; ++i) work.terms[i] = __builtin_nanf("");
            follow(work.terms, query_tokens, static_cast<int32_t>(token - start), best, tokens);
            if (!sound) break;
        }
        if constexpr (sizeof(T) == 1)
            if (start < end)
                for (int64_t i = 0; i < query_tokens; ++i) best[i] *= args.query_weights[i];
    });
}

inline void matches(const MaxSimArgs& args) {
    switch (args.dtype) {
        case Dtype::kBFloat16:
            return matches_typed<BFloat16>(args);
        case Dtype::kInt8:
            return matches_typed<uint8_t>(args);
        default:
            return matches_typed<float>(args);
    }
}
