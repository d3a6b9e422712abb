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

template <class T>
void matches_typed(const MaxSimArgs& args) {
    const Plan<T> plan(args);
    const int64_t query_tokens = args.query_starts[1];
    parallel(args.num_candidates, [&](int64_t k) {
        Work<T> work(plan, args);
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
            sound = max_document<T>(args, columns, plan.units(), token, token + 1, {token + 1, end},
                                    work);
            read_maxima<T>(work.maxima, 0, query_tokens, work.terms);
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
