// How the threads of a warp exchange numbers and multiply matrices (warps.h), as the PTX manual says.
#include "warps.h"

#include "shared_memory.h"

namespace cuda_on_cpu {
namespace {

bool takes_part(int lane, unsigned lanes) {
    return lanes >> lane & 1;
}

// ---- Shuffles and votes

struct Shuffled {
    unsigned long long mine;
    int from;
    unsigned long long result;
};

void run_shuffle(void** operands, unsigned lanes) {
    for (int lane = 0; lane < warpSize; lane++) {
        if (!takes_part(lane, lanes)) continue;
        auto& operand = *static_cast<Shuffled*>(operands[lane]);
        const bool is_there = takes_part(operand.from, lanes);
        operand.result = is_there ? static_cast<Shuffled*>(operands[operand.from])->mine : ~0ull;
    }
}

struct Vote {
    bool mine;
    unsigned all;
};

void run_ballot(void** operands, unsigned lanes) {
    unsigned all = 0;
    for (int lane = 0; lane < warpSize; lane++)
        if (takes_part(lane, lanes)) all |= unsigned(static_cast<Vote*>(operands[lane])->mine) << lane;
    for (int lane = 0; lane < warpSize; lane++)
        if (takes_part(lane, lanes)) static_cast<Vote*>(operands[lane])->all = all;
}

constexpr Operation SHUFFLE = {"a shuffle", run_shuffle}, BALLOT = {"__ballot_sync", run_ballot};

// ---- Matrices

void require_whole_warp(const char* instruction, unsigned lanes) {
    if (lanes != ~0u) fail("%s takes all 32 threads of a warp, not %#x", instruction, lanes);
}

struct Loaded {
    unsigned* fragment;
    const void* row;
};

// Four matrices of 8 by 8 numbers of 16 bits. Lanes 8 m to 8 m + 7 give the addresses of the rows of matrix m. Of it,
// lane l gets two neighbours of row l / 4, or of column l / 4 if `transposed`, as word m of its fragment.
template <bool transposed>
void run_ldmatrix(void** operands, unsigned lanes) {
    require_whole_warp("ldmatrix", lanes);
    for (int m = 0; m < 4; m++) {
        unsigned short x[8][8];
        for (int row = 0; row < 8; row++) std::memcpy(x[row], static_cast<Loaded*>(operands[8 * m + row])->row, 16);
        for (int lane = 0; lane < warpSize; lane++) {
            const int i = lane / 4, j = lane % 4 * 2;
            const unsigned low = transposed ? x[j][i] : x[i][j], high = transposed ? x[j + 1][i] : x[i][j + 1];
            static_cast<Loaded*>(operands[lane])->fragment[m] = low | high << 16;
        }
    }
}

constexpr Operation LDMATRIX = {"ldmatrix", run_ldmatrix<false>};
constexpr Operation LDMATRIX_TRANS = {"ldmatrix.trans", run_ldmatrix<true>};

void ldmatrix(const Operation& operation, unsigned* fragment, const void* row, const char* file, int line) {
    require_16_bytes_of_shared_memory("ldmatrix", row);
    Loaded operand{fragment, row};
    meet(~0u, operation, &operand, file, line);
}

struct Multiplied {
    float* sum;
    const unsigned *a, *b;
};

float& sum_at(void** operands, int row, int column) {
    const int lane = row % 8 * 4 + column / 2;
    return static_cast<Multiplied*>(operands[lane])->sum[row / 8 * 2 + column % 2];
}

// sum (16, 8) += a (16, DEPTH) b (DEPTH, 8): in order of k, each product and each sum rounded to float32.
template <int DEPTH>
void multiply(void** operands, const float (&a)[16][DEPTH], const float (&b)[DEPTH][8]) {
    for (int row = 0; row < 16; row++) {
        float sum[8];
        for (int column = 0; column < 8; column++) sum[column] = sum_at(operands, row, column);
        for (int k = 0; k < DEPTH; k++)
            for (int column = 0; column < 8; column++) sum[column] += a[row][k] * b[k][column];
        for (int column = 0; column < 8; column++) sum_at(operands, row, column) = sum[column];
    }
}

float from_bits(unsigned bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

// Words 1 and 3 of a lie 8 rows below words 0 and 2, and words 2 and 3 in the right half; word 1 of b lies below word 0.
void run_mma_bfloat16(void** operands, unsigned lanes) {
    require_whole_warp("mma_m16n8k16", lanes);
    float a[16][16], b[16][8];
    for (int lane = 0; lane < warpSize; lane++) {
        const auto& operand = *static_cast<Multiplied*>(operands[lane]);
        for (int half = 0; half < 2; half++) {  // of a word; the lower one comes first
            const int i = lane / 4, k = lane % 4 * 2 + half;
            const auto number = [half](unsigned word) { return from_bits(word >> 16 * half << 16); };
            for (int w = 0; w < 4; w++) a[i + w % 2 * 8][k + w / 2 * 8] = number(operand.a[w]);
            for (int w = 0; w < 2; w++) b[k + w * 8][i] = number(operand.b[w]);
        }
    }
    multiply(operands, a, b);
}

void run_mma_tf32(void** operands, unsigned lanes) {
    require_whole_warp("mma_m16n8k8_tf32", lanes);
    float a[16][8], b[8][8];
    const auto number = [](unsigned word) { return from_bits(word & ~0x1FFFu); };  // the low bits are not looked at
    for (int lane = 0; lane < warpSize; lane++) {
        const auto& operand = *static_cast<Multiplied*>(operands[lane]);
        const int i = lane / 4, k = lane % 4;
        for (int w = 0; w < 4; w++) a[i + w % 2 * 8][k + w / 2 * 4] = number(operand.a[w]);
        for (int w = 0; w < 2; w++) b[k + w * 4][i] = number(operand.b[w]);
    }
    multiply(operands, a, b);
}

constexpr Operation MMA_BFLOAT16 = {"mma_m16n8k16", run_mma_bfloat16};
constexpr Operation MMA_TF32 = {"mma_m16n8k8_tf32", run_mma_tf32};

}  // namespace

unsigned long long shuffle(unsigned lanes, unsigned long long bits, Shuffle how, int by, int width, const char* file,
                           int line) {
    const int lane = current_thread() % warpSize, mine = lane % width;
    const int asked = how == Shuffle::AT     ? by & (width - 1)
                      : how == Shuffle::UP   ? mine - by
                      : how == Shuffle::DOWN ? mine + by
                                             : mine ^ by;
    const bool exists = 0 <= asked && asked < width;  // who asks for one that does not gets his own
    Shuffled operand{bits, exists ? lane - mine + asked : lane, 0};
    meet(lanes, SHUFFLE, &operand, file, line);
    return operand.result;
}

}  // namespace cuda_on_cpu

using namespace cuda_on_cpu;

unsigned __ballot_sync(unsigned lanes, bool predicate, const char* file, int line) {
    Vote vote{predicate, 0};
    meet(lanes, BALLOT, &vote, file, line);
    return vote.all;
}

void ldmatrix_x4(unsigned (&fragment)[4], const void* row, const char* file, int line) {
    ldmatrix(LDMATRIX, fragment, row, file, line);
}

void ldmatrix_x4_trans(unsigned (&fragment)[4], const void* row, const char* file, int line) {
    ldmatrix(LDMATRIX_TRANS, fragment, row, file, line);
}

void mma_m16n8k16(float (&sum)[4], const unsigned (&a)[4], const unsigned (&b)[2], const char* file, int line) {
    Multiplied operand{sum, a, b};
    meet(~0u, MMA_BFLOAT16, &operand, file, line);
}

void mma_m16n8k8_tf32(float (&sum)[4], const unsigned (&a)[4], const unsigned (&b)[2], const char* file, int line) {
    Multiplied operand{sum, a, b};
    meet(~0u, MMA_TF32, &operand, file, line);
}
