// Maxima of MaxSim on wgmma: for each candidate and query token, the highest similarity.
//
// Document tokens lie on M, query tokens on N. The rows of all candidates, laid end to end, are cut
// into equal ranges, one a warp, across document edges; where a range cuts a document its part's
// maxima go to `partial`. A warp takes 16 rows at a time, and the four of a warpgroup multiply
// theirs together, from registers, with the queries in shared memory: with all columns, or with as
// many as fit, so that one read and one decode of a token serve many queries. A thread copies what
// its own fragment needs, stages ahead, so that a row may begin anywhere and nothing is waited for
// but one's own copies and products.
//
// What limits it, by arithmetic and not measured (H100, D = 128; G: 10^9 tokens a second):
// - One query of 32 tokens, float16 or bfloat16: memory, 256 bytes a token, 13 G; 96 KiB or more
//   are under way in each multiprocessor. int8: memory, 132 bytes, 25 G.
// - 4bit and 2bit: the L2 cache, 200 and 168 bytes a token, 128 of them the centroid's: 28 and 33 G
//   at 5.5 TB/s, where memory alone would give 46 and 84. Instructions come after that: nvcc 13.0
//   makes 252 and 210 of them for a warp's 16 tokens: 59 and 71 G. 120 and 91 are of the unit for
//   integers, at half the rate: 62 and 81 G. The other formats take 177 and, int8, 145.
//   tests/kernels/backend/test_maxsim_machine_code.py counts them.
// - Many queries: products. 64 tokens and 128 columns take 512 clocks of the tensor cores in
//   float16, 256 in int8, and their maxima 240 and 300 of the other units, which work meanwhile for
//   another warpgroup. Columns that do not fit shared memory cost another read of the documents.
#pragma once

#include "maxsim_documents.h"

namespace packrank {
namespace cuda {

constexpr float kBelowAll = -__builtin_inff();

// Document tokens of a warp: rows [first, first + count) of those of all candidates.
struct Range {
    int64_t first;
    int count;
};

DEVICE int clamped(int64_t x, int most) {
    return x < -1 ? -1 : x > most ? most : static_cast<int>(x);
}

DEVICE Range range_of(const MaxSimArgs& args, int64_t index) {
    const int64_t base = args.starts[0], end = args.starts[args.num_candidates];
    const int64_t each = rows_of_range(end - base, args.plan.ranges());
    const int64_t first = base + index * each;
    const int64_t left = end - first < each ? end - first : each;
    return {first, left < 0 ? 0 : static_cast<int>(left)};
}

// EVICTED: documents leave the L2 cache first, so that centroids stay.
template <class Documents, int N, bool EVICTED = false>
class MaximaBlock {
  public:
    DEVICE explicit MaximaBlock(const MaxSimArgs& args)
        : args_(args), plan_(args.plan), documents_(args) {
        const int group = thread_index() / kGroupThreads;
        const int slots = stages() + group * plan_.stages * kStageBytes;
        slots_ = slots + thread_index() % kGroupThreads * 16;
    }

    DEVICE void run() {
        range_ = range_of(args_, index());
        // Where documents lie end to end, copies need not know them, and begin before this.
        if (!is_dense() && range_.count > 0) find(0);
        Turn turn = {0, 0, 0, args_.num_columns, 0};
        if (!has_owners()) {
            turn.end = range_.count;
            turn.steps = num_steps(range_of(args_, index() / 4 * 4).count);
        }
        do {
            if (has_owners() && !next(turn)) break;
            for (int column = 0; column < turn.num_columns; column += plan_.group_columns) {
                if (column > 0 && turn.row < turn.end) {  // again
                    walk_.document = -1;
                    if (!is_dense()) find(turn.row);
                }
                pass(turn, column);
            }
            if (turn.num_columns == 0 && turn.end < range_.count) find(turn.end);
        } while (has_owners());
    }

  private:
    using Sum = typename Documents::Sum;
    static constexpr int kSlabs = Documents::kSlabs;
    static constexpr int kStageBytes = num_slots(Documents::kFormat, kSlabs) * kSlotBytes;
    static constexpr int kBlocks = N / 32;  // of 32 columns, of which a lane keeps one's maximum
    // With 128 columns there would be no registers for it; floats wait for memory, not for maxima.
    static constexpr bool kMayKeep = N <= 64 && Documents::kIsScaled;
    static constexpr bool kIsInteger = Documents::kIsScaled;
    // Of sums below 2^22 in size, as rows of up to 128 bytes have them. Such a sum, plus the bits
    // of 1.5 x 2^23, has the bits of that plus the sum, and no conversion is needed.
    static constexpr bool kHasShortSums = kIsInteger && Documents::kIsWhole;
    static constexpr float kShift = 12582912.0f;
    static constexpr int kFar = 1 << 30;
    static constexpr int kNoOwner = -1;
    static constexpr uint32_t kInfinity = 0x7f800000, kNaN = 0x7fffffff;

    // A candidate, and where it starts and ends: from the range's first row on, -1 before it.
    struct Walk {
        int document, start, end;
    };

    // The candidate that the next rows are of. Another follows 8 rows later if that is before
    // `whole_end`. Values, scales and codes as if the range's first row were of it.
    struct Source {
        int document, whole_end;
        const uint8_t* values;
        const float* scales;
        const int32_t* codes;
    };

    // What the block does next: this warp its rows [row, end), in as many steps as its warpgroup,
    // with some columns.
    struct Turn {
        int row, end, first_column, num_columns, steps;
    };

    DEVICE bool has_owners() const { return args_.owners != nullptr; }
    DEVICE bool is_dense() const { return args_.candidates == nullptr && !has_owners(); }
    DEVICE static int lane() { return thread_index() % 32; }
    DEVICE int slabs() const { return Documents::kIsWhole ? kSlabs : plan_.slabs; }
    DEVICE int slots_end() const { return slots_ + plan_.stages * kStageBytes; }
    // Of the warp's range.
    DEVICE int index() const { return block_index() * plan_.warpgroups * 4 + thread_index() / 32; }
    // This thread's maxima, where shared memory has them.
    DEVICE int highest() const {
        return stages() + plan_.warpgroups * plan_.stages * kStageBytes +
               thread_index() / 32 * plan_.group_columns * 4 + lane() * 4;
    }
    DEVICE static int num_steps(int rows) { return (rows + kTileRows - 1) / kTileRows; }

    DEVICE int row_of(int document) const {
        return clamped(load_constant(args_.starts + document) - range_.first, kFar);
    }

    // The last candidate that starts at a row or before: the one that has it.
    DEVICE void find(int row) {
        int low = 0, high = static_cast<int>(args_.num_candidates);
        while (high - low > 1) {
            const int step = (high - low + 31) / 32;
            const int mine = lane() < (high - low + step - 1) / step ? low + lane() * step : high;
            const uint32_t before = ballot(mine < high && row_of(mine) <= row);
            low += (count_bits(before) - 1) * step;
            high = low + step < high ? low + step : high;
        }
        walk_ = {low, row_of(low), row_of(low + 1)};
    }

    // One turn with all columns; or, where candidates have owners, one a query. Then the block is a
    // warpgroup: its warps name a query in turn, and those that have come to candidates of the same
    // do them.
    DEVICE bool next(Turn& turn) const {
        turn.row = turn.end;
        const int mine = turn.row < range_.count
                             ? static_cast<int>(load_constant(args_.owners + walk_.document))
                             : kNoOwner;
        int others[4], owner = kNoOwner;
        exchange(mine, others);
        for (int w = 3; w >= 0; --w)
            if (others[w] != kNoOwner) owner = others[w];
        if (owner == kNoOwner) return false;
        if (mine == owner) turn.end = end_of_run(owner);
        exchange(num_steps(turn.end - turn.row), others);
        turn.steps = 0;
        for (int w = 0; w < 4; ++w) turn.steps = others[w] > turn.steps ? others[w] : turn.steps;
        if (args_.query_starts != nullptr) {
            turn.first_column = load_constant(args_.query_starts + owner);
            turn.num_columns = load_constant(args_.query_starts + owner + 1) - turn.first_column;
        }
        return true;
    }

    // What each warp of the warpgroup says.
    DEVICE void exchange(int mine, int (&all)[4]) const {
        sync_block();
        if (lane() == 0) store_word(thread_index() / 32 * 4, static_cast<uint32_t>(mine));
        sync_block();
        for (int w = 0; w < 4; ++w) all[w] = static_cast<int>(load_word(4 * w));
    }

    // Where the candidates of a query, from this on, end.
    DEVICE int end_of_run(int owner) const {
        for (int document = walk_.document;; document += 32) {
            const int mine = document + lane();
            const bool same = mine < args_.num_candidates && row_of(mine) < range_.count &&
                              load_constant(args_.owners + mine) == owner;
            const uint32_t others = ~ballot(same);
            if (others == 0) continue;
            const int end = row_of(document + lowest_bit(others));
            return end < range_.count ? end : range_.count;
        }
    }

    // Rows [first + column, first + column + group_columns) of the queries; those that are not of
    // this turn, and the bytes after a row's last, are 0.
    DEVICE void load_queries(const Turn& turn, int column) const {
        const int size = Documents::kSize ? Documents::kSize : args_.size;
        const int bytes = size * element_bytes(Documents::kFormat);
        const int pieces = slabs() * 4;  // 16 bytes of a row: its part of a core matrix
        sync_block();
        for (int i = thread_index(); i < plan_.group_columns * pieces * 4; i += num_threads()) {
            // A warp writes a core matrix: four words of each of eight rows.
            const int piece = i / 32 % pieces, row = i / 32 / pieces * 8 + i / 4 % 8;
            uint32_t x = 0;
            if (column + row < turn.num_columns) {
                const int64_t query = turn.first_column + column + row;
                const auto* const queries = static_cast<const uint8_t*>(args_.queries);
                x = Documents::word(queries + query * bytes, bytes, piece / 4, i % 4, piece % 4);
            }
            store_word(kWords + (row / 8 * pieces + piece) * 128 + row % 8 * 16 + i % 4 * 4, x);
        }
        fence_for_products();
        sync_block();
        if (kIsInteger) store_starts(pieces);
    }

    // What the sums of each column begin with, so that they end as the kernel wants them: less what
    // documents are too large, and shifted. A thread reads those of its two rows at once.
    DEVICE void store_starts(int pieces) const {
        for (int n = thread_index(); n < plan_.group_columns; n += num_threads()) {
            int start = kHasShortSums ? static_cast<int>(float_to_bits(kShift)) : 0;
            for (int i = 0; Documents::kTooLarge != 0 && i < pieces * 4; ++i) {
                const uint32_t x =
                    load_word(kWords + (n / 8 * pieces + i / 4) * 128 + n % 8 * 16 + i % 4 * 4);
                for (int k = 0; k < 4; ++k)
                    start -= Documents::kTooLarge * static_cast<int8_t>(x >> 8 * k);
            }
            for (int r = 0; r < 2; ++r)
                store_word(starts() + n / 2 * 16 + r * 8 + n % 2 * 4, static_cast<uint32_t>(start));
        }
        sync_block();
    }

    // Shared memory: words to agree on a query, queries, starts, stages, maxima.
    DEVICE int starts() const { return kWords + plan_.group_columns * slabs() * kSlab; }
    DEVICE int stages() const { return starts() + (kIsInteger ? plan_.group_columns * 8 : 0); }

    DEVICE int num_threads() const { return plan_.warpgroups * kGroupThreads; }

    // One pass over the rows of a turn, with the columns that shared memory holds.
    DEVICE void pass(const Turn& turn, int column) {
        const int left = (turn.num_columns - column + N - 1) / N, most = plan_.group_columns / N;
        const int panels = left < most ? left : most;
        for (int i = 0; i < most * kBlocks; ++i)
            store_word(highest() + i * 128, float_to_bits(kBelowAll));
#pragma unroll
        for (int i = 0; i < kBlocks * 8; ++i) kept_[i] = kBelowAll;
        column_ = column;
        end_ = turn.end;
        const int groups = slabs() / kSlabs;
        start_copies(turn, panels, groups);
        load_queries(turn, column);
        if (walk_.document < 0 && turn.row < turn.end) find(turn.row);
        note_calm();
        uint32_t a[kSlabs][2][4];
        float scales[2] = {1.0f, 1.0f};
        const int stop = turn.row + turn.steps * kTileRows;
        for (int row = turn.row; row < stop; row += kTileRows) {
            if (Documents::kIsWhole) take(a, scales);
            for (int panel = 0; panel < panels; ++panel) {
                Sum c[N / 2];
                for (int group = 0; group < groups; ++group) {
                    if (!Documents::kIsWhole) take(a, scales);
                    multiply(a, panel, group, c);
                }
                settle(c, scales, row, panel, panel == panels - 1);
            }
        }
    }

    // Copies run `stages - 1` slab groups ahead; the rows' codes are read one step before.
    DEVICE void start_copies(const Turn& turn, int panels, int groups) {
        each_ = Documents::kIsWhole ? 1 : panels * groups;
        done_ = 0;
        slot_ = slots_;
        last_ = slots_end() - kStageBytes;
        next_row_ = turn.row + lane() / 4;
        source_.document = walk_.document - 1;
        set_source(range_.first, args_.candidates == nullptr ? kFar : -1);
        load_codes();
        for (int i = 0; i < plan_.stages - 1; ++i) copy(slots_ + i * kStageBytes);
    }

    // To rows before `end`; `origin` is the document token of the range's first, if that were of
    // the same candidate.
    DEVICE void set_source(int64_t origin, int end) {
        source_.whole_end = (end < end_ ? end : end_) - 8;
        source_.values = args_.values + Documents::part() + origin * bytes_of_row();
        if (kIsInteger) source_.scales = args_.scales + origin;
        if (Documents::kHasCodes) source_.codes = args_.codes + origin;
    }

    DEVICE int bytes_of_row() const {
        return row_bytes(Documents::kFormat, Documents::kSize ? Documents::kSize : args_.size);
    }

    // Whether this thread's next two rows exist and are of one candidate.
    DEVICE bool is_whole() const { return next_row_ < source_.whole_end; }

    // Of the next rows. They are not looked at before the next step, when they have come.
    DEVICE void load_codes() {
        if (!Documents::kHasCodes || !is_whole()) return;
        const int32_t* const codes = element(source_.codes, next_row_, 4);
        code_[0] = load_constant(codes);
        code_[1] = load_constant(codes + 8);
    }

    // To the next candidate; one without rows may be no document.
    DEVICE void follow(int at) {
        const int document = ++source_.document, end = row_of(document + 1);
        source_.whole_end = end - 8;
        if (end <= at) return;
        const int64_t start = load_constant(args_.starts + document);
        const int64_t first =
            load_constant(args_.cu_seqlens + load_constant(args_.candidates + document));
        set_source(range_.first - start + first, end);
    }

    // Whether the next slab group to copy is the last of these rows'.
    DEVICE bool is_last_group() const { return Documents::kIsWhole || done_ + 1 == each_; }

    // The next slab group of this thread's rows, to a stage.
    DEVICE void copy(int slot) {
        if (is_whole() && documents_.is_known(code_[0]) && documents_.is_known(code_[1])) {
            const uint8_t* const values = element(source_.values, next_row_, bytes_of_row());
            const float* const scales =
                kIsInteger ? element(source_.scales, next_row_, 4) : nullptr;
            copy_row({values, scales, code_[0]}, 0, slot);
            copy_row({values + 8 * bytes_of_row(), kIsInteger ? scales + 8 : nullptr, code_[1]}, 1,
                     slot);
        } else {
            copy_any_rows(slot);
        }
        if (is_last_group()) {
            done_ = 0;
            next_row_ += kTileRows;
            // After all that reads the old ones: the codes load into their registers, and are first
            // waited for in the next step.
            load_codes();
        } else {
            ++done_;
        }
        copies_commit();
    }

    // Where a candidate or the turn ends, and where a code names no centroid. Of rows that do not
    // exist nothing is copied: what is multiplied in their place, nobody reads.
    DEVICE void copy_any_rows(int slot) {
        const Source before = source_;
#pragma unroll 1
        for (int r = 0; r < 2; ++r) {
            const int at = next_row_ + 8 * r;
            if (at >= end_) break;
            while (source_.whole_end + 8 <= at) follow(at);
            copy_row({element(source_.values, at, bytes_of_row()),
                      kIsInteger ? element(source_.scales, at, 4) : nullptr,
                      Documents::kHasCodes ? load_constant(element(source_.codes, at, 4)) : 0},
                     r, slot);
        }
        if (!is_last_group()) source_ = before;  // the next group begins with the first row
    }

    DEVICE void copy_row(const TileRow& row, int r, int slot) const {
        documents_.template copy<EVICTED>(args_, row, r, done_ % (slabs() / kSlabs) * kSlabs, slot);
        if (!kIsInteger) return;
        const int scale = slot + Documents::kScales * kSlotBytes + 4 * r;
        if (documents_.is_known(row.code))
            copy_stage<4, EVICTED>(scale, row.scale, true);
        else
            store_word(scale, kNaN);
    }

    // The fragment that comes next.
    DEVICE void take(uint32_t (&a)[kSlabs][2][4], float (&scales)[2]) {
        copies_wait_but(plan_.stages - 2);
        documents_.read(slot_, a);
        if (kIsInteger) {
            const Vector v = load_shared(slot_ + Documents::kScales * kSlotBytes);
#pragma unroll
            for (int r = 0; r < 2; ++r) {
                const float scale = bits_to_float(v.x[r]);
                scales[r] = fused(scale, 0.0f, scale);  // NaN where it is not finite
            }
        }
        copy(last_);
        last_ = slot_;
        slot_ += kStageBytes;
        if (slot_ == slots_end()) slot_ = slots_;
    }

    // c = a times a panel of queries, or c += from the second group of slabs on.
    DEVICE void multiply(uint32_t (&a)[kSlabs][2][4], int panel, int group, Sum (&c)[N / 2]) {
        const int row_stride = slabs() * 4 * 128;  // of eight query tokens
        const int at = kWords + panel * (N / 8) * row_stride + group * kSlabs * 4 * 128;
        const uint64_t b = matrix_descriptor(shared_address(at), 128, row_stride);
#pragma unroll
        for (int i = 0; kIsInteger && i < N / 8; ++i) {
            if (group > 0) break;
            const int first = panel * (N / 8) + i;
            const Vector v = load_shared(starts() + first * 64 + lane() % 4 * 16);
#pragma unroll
            for (int k = 0; k < 4; ++k) c[i * 4 + k] = static_cast<int32_t>(v.x[k]);
        }
        products_begin(a);
#pragma unroll
        for (int slab = 0; slab < kSlabs; ++slab)
#pragma unroll
            for (int i = 0; i < 2; ++i)
                multiply_group(typename Documents::Element(), c, a[slab][i],
                               later_matrix(b, (slab * 2 + i) * 256),
                               kIsInteger || group + slab + i > 0);
        products_wait(c);
    }

    // Takes a panel's sums of rows [row, row + 16) into the maxima, document by document.
    DEVICE void settle(const Sum (&c)[N / 2], const float (&scales)[2], int row, int panel,
                       bool is_last) {
        if (row < calm_) {
#pragma unroll
            for (int block = 0; block < kBlocks; ++block)
                merge<true>(c, block, scales, 0, kTileRows, panel);
            return;
        }
        if (row >= end_) return;
        const int stop = row + kTileRows < end_ ? row + kTileRows : end_;
        Walk walk = walk_;
        for (int from = row;;) {
            const int end = walk.end < stop ? walk.end : stop;
            if (from < end) {
#pragma unroll
                for (int block = 0; block < kBlocks; ++block)
                    merge<false>(c, block, scales, from - row, end - row, panel);
                from = end;
            }
            if (walk.end > stop) break;
            if (walk.start < walk.end) flush(walk, panel);
            if (++walk.document == args_.num_candidates) break;
            walk.start = walk.end;
            walk.end = row_of(walk.document + 1);
        }
        if (stop == end_ && walk.end > stop && walk.start < stop) flush(walk, panel);
        if (is_last) {
            walk_ = walk;
            note_calm();
        }
    }

    // A tile that begins before `calm_` lies within a document, and others of its rows follow. Such
    // a tile needs no masks.
    DEVICE void note_calm() {
        calm_ = (walk_.end < end_ ? walk_.end : end_) - kTileRows;
        if (kMayKeep && !keeps_maxima()) calm_ = -1;
    }

    // Where a panel is all that there is, a thread keeps its own rows' maxima in registers, and
    // lanes meet at the end of a document; else they meet in every tile.
    DEVICE bool keeps_maxima() const { return kMayKeep && plan_.group_columns == N; }

    // Rows [from, end) of the warp's 16, which may be ALL, and a block of columns.
    template <bool ALL>
    DEVICE void merge(const Sum (&c)[N / 2], int block, const float (&scales)[2], int from, int end,
                      int panel) {
        float high[8];
        find_highest<ALL>(c, block, scales, from, end, high);
        if (kMayKeep && (ALL || keeps_maxima())) {
#pragma unroll
            for (int i = 0; i < 8; ++i)
                kept_[block * 8 + i] = maximum(kept_[block * 8 + i], high[i]);
        } else {
            const int at = highest() + (panel * kBlocks + block) * 128;
            meet(high);
            store_word(at, float_to_bits(maximum(bits_to_float(load_word(at)), high[0])));
        }
    }

    // Of this thread's two rows, as far as they count: of 8 columns the higher.
    template <bool ALL>
    DEVICE static void find_highest(const Sum (&c)[N / 2], int block, const float (&scales)[2],
                                    int from, int end, float (&high)[8]) {
        // c[4 j + 2 r + e] is of row lane / 4 + 8 r and column 8 j + lane % 4 * 2 + e.
        float shift[2], factor[2];
        bool has[2];
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const int mine = lane() / 4 + 8 * r;
            has[r] = ALL || (from <= mine && mine < end);
            factor[r] = has[r] ? scales[r] : 0.0f;
            shift[r] = has[r] ? 0.0f : kBelowAll;
        }
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            float x[2];
#pragma unroll
            for (int r = 0; r < 2; ++r) {
                x[r] = value_of(c[block * 16 + i / 2 * 4 + 2 * r + i % 2]);
                if (kIsInteger && ALL)
                    x[r] = product(x[r], scales[r]);
                else if (kIsInteger)
                    x[r] = fused(x[r], factor[r], shift[r]);  // a product, or below all
                else
                    x[r] = has[r] ? x[r] : kBelowAll;
            }
            high[i] = maximum(x[0], x[1]);
        }
    }

    DEVICE static float value_of(Sum c) {
        if constexpr (kHasShortSums)
            return sum(bits_to_float(static_cast<uint32_t>(c)), -kShift);
        else
            return to_float(c);
    }

    // high[0] of the lanes: the highest of all rows, of a column each.
    DEVICE static void meet(float (&high)[8]) {
        halve<8>(high, 16);
        halve<4>(high, 8);
        halve<2>(high, 4);
    }

    // Of two lanes one keeps the first half of COUNT maxima, the other the second.
    template <int COUNT>
    DEVICE static void halve(float (&high)[8], int mask) {
        const bool is_upper = (lane() & mask) != 0;
#pragma unroll
        for (int i = 0; i < COUNT / 2; ++i) {
            const float mine = is_upper ? high[i + COUNT / 2] : high[i];
            const float other = is_upper ? high[i] : high[i + COUNT / 2];
            high[i] = maximum(mine, shuffle_xor(other, mask));
        }
    }

    // A document, or what the range has of it, is over: its maxima go where they belong.
    DEVICE void flush(const Walk& walk, int panel) {
        const bool cut_before = walk.start < 0;
        const bool is_cut = cut_before || walk.end > range_.count;
        const int64_t row = is_cut ? index() * 2 + (cut_before ? 0 : 1) : walk.document;
        // `halve` leaves lane / 4 with that one of 8.
        const int mine = lane() / 8 * 8 + lane() % 4 * 2 + lane() / 4 % 2;
        const int column = column_ + panel * N + mine;
        float* const target =
            (is_cut ? args_.partial : args_.maxima) + row * plan_.columns + column;
#pragma unroll
        for (int block = 0; block < kBlocks; ++block) {
            if (keeps_maxima()) {
                float high[8];
#pragma unroll
                for (int i = 0; i < 8; ++i) {
                    high[i] = kept_[block * 8 + i];
                    kept_[block * 8 + i] = kBelowAll;
                }
                meet(high);
                target[block * 32] = high[0];
            } else {
                const int at = highest() + (panel * kBlocks + block) * 128;
                target[block * 32] = bits_to_float(load_word(at));
                store_word(at, float_to_bits(kBelowAll));
            }
        }
    }

    const MaxSimArgs& args_;
    const MaxSimPlan& plan_;
    const Documents documents_;
    int slots_;  // this thread's in the first stage, an offset in shared memory
    Range range_;
    Walk walk_ = {-1, 0, 0};  // the candidate that the next row belongs to; -1 before `find`

    // Of the pass: its first column, the warp's last row, and see `note_calm`.
    int column_, end_, calm_;
    // Of its copies: slab groups of a step, begun in this step; the stage that comes next, and the
    // one before.
    int each_, done_, slot_, last_;
    int next_row_;  // the first of this thread's
    Source source_;
    int32_t code_[2];
    float kept_[kBlocks * 8];  // maxima of this thread's own rows, where it keeps them
};

}  // namespace cuda
}  // namespace packrank
