// gemm/mainloop.cuh's accumulate for tall tiles, two tiles of K for each turn: a stage is an address rather than a constant,
// and the last tile is copied in the same loop. Where tensor operations are many, that costs little, and saves much text.
//
// Stages   kStages of kPitch bytes, rows of x and then codes; copies run kStages - 1 tiles ahead, fragments one step of 16
// Order    K ascends in steps of 16: a product's bits are those of gemm/mainloop.cuh
// Hazards  H1, H2 as there
#pragma once

#include "common/fragment.cuh"
#include "common/ptx.cuh"
#include "common/swizzle.cuh"
#include "common/unroll.cuh"

namespace q4 {

// 128 rows of x: gemm::RowOperand, of which the stage is an address.
template <class C>
class TallRows {
  static constexpr int kRowBytes = C::kDepth * 2, kChunks = kRowBytes / swizzle::kChunkBytes;
  static constexpr int kStep = C::kThreads / kChunks, kCopies = C::kTileM / kStep;
  static_assert(C::kTileM % kStep == 0 && kStep % 8 == 0, "a thread's rows share one swizzle pattern");

  uint64_t source[kCopies];  // this thread's chunk of each of its rows, in the next tile
  uint32_t target;           // where the first goes, in stage 0
  uint32_t fragments;        // this lane's ldmatrix address in stage 0

 public:
  static constexpr int kBlocks = C::kTileM / 16;
  static constexpr int kStageBytes = C::kTileM * kRowBytes;

  // shared: of stage 0. address(row): where a row of the tile begins.
  template <class Address>
  __device__ __forceinline__ void start(uint32_t shared, Address&& address) {
    const uint32_t lane = threadIdx.x % 32, row = threadIdx.x / kChunks, chunk = threadIdx.x % kChunks;
#pragma unroll
    for (int i = 0; i < kCopies; ++i) source[i] = address(row + i * kStep) + chunk * swizzle::kChunkBytes;
    target = ptx::opaque(shared + swizzle::offset<kRowBytes>(row, chunk));
    fragments = ptx::opaque(shared + swizzle::offset<kRowBytes>(fragment::a_row(lane), fragment::a_chunk(lane)));
  }

  // A tile, which is whole, kAhead tiles after the next.
  template <int kAhead>
  __device__ __forceinline__ void copy(uint32_t stage) const {
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
      ptx::cp_async_cg_16<0, kAhead * kRowBytes>(target + stage + i * kStep * kRowBytes, source[i]);
    }
  }

  // The last tile, of which `exist` > 0 columns of K do; the others become zeros.
  template <int kAhead>
  __device__ __forceinline__ void copy_last(uint32_t stage, int exist) const {
    const int before = threadIdx.x % kChunks * swizzle::kChunkBytes;
    const int valid = min(max(2 * exist - before, 0), swizzle::kChunkBytes);
    const int at = kAhead * kRowBytes - (valid > 0 ? 0 : before);  // the tile's first chunk exists
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
      ptx::cp_async_cg_16<0, 0>(target + stage + i * kStep * kRowBytes, source[i] + at, valid);
    }
  }

  __device__ __forceinline__ void advance(int tiles) {
#pragma unroll
    for (int i = 0; i < kCopies; ++i) source[i] = ptx::opaque(source[i] + tiles * kRowBytes);
  }

  // Where this lane's fragments of the step-th 16 columns of K are, and those of 16 rows of them.
  __device__ __forceinline__ uint32_t at(int step, uint32_t stage) const {
    return swizzle::turn<kRowBytes>(fragments + stage, step);
  }
  static __device__ __forceinline__ void load(uint32_t (&f)[4], uint32_t at, int block) {
    ptx::ldmatrix_x4<0>(f, at + swizzle::immediate<kRowBytes>(0, block));
  }
};

// acc += A·B. Functions rather than closures: their names are part of the text.
template <class C>
struct TallLoop {
  using A = typename C::A;
  using B = typename C::B;
  static constexpr int kSteps = C::kDepth / 16, kStages = C::kStages;

  typename C::Accumulators& acc;
  A& a;
  B& b;
  uint32_t fa[A::kBlocks][4];     // of the step at hand, then of the next
  uint32_t fb[2][B::kBlocks][4];  // of even and of odd steps

  int last;                       // columns of K that exist in the last tile

  // k_len > 0: columns of K. CTA-collective.
  __device__ __forceinline__ void run(int k_len) {
    const int tiles = (k_len - 1) / C::kDepth + 1;
    last = k_len - (tiles - 1) * C::kDepth;
    static_assert(kStages - 1 == kTurn, "so many tiles are on their way when a turn begins");
    copy<0>(tiles, 0);
    copy<1>(tiles - 1, C::kPitch);
    ptx::cp_async_wait_group<kStages - 2>();
    __syncthreads();  // H1
#pragma unroll
    for (int i = 0; i < A::kBlocks; ++i) A::load(fa[i], a.at(0, 0), i);
    b.template load<0>(fb[0], 0, tiles);
    Ring ring{0, (kStages - 1) * C::kPitch, tiles};
    while (tile<0>(ring) && tile<1>(ring)) continue;
    multiply<3, false>(0);
  }

 private:
  static constexpr int kTurn = 2;

  struct Ring {
    uint32_t stage, before;  // of the tile at hand, and of the tile before it
    int left;                // tiles
  };

  // All of a tile but its last step, and that too if there is another tile: whether there is. kAhead: of the turn.
  template <int kAhead>
  __device__ __forceinline__ bool tile(Ring& ring) {
    b.template load<1>(fb[1], ring.stage, ring.left);
    copy<kAhead>(ring.left - (kStages - 1), ring.before);  // H2: the stage before this one
    multiply<0, true>(a.at(1, ring.stage));
    b.template load<2>(fb[0], ring.stage, ring.left);
    multiply<1, true>(a.at(2, ring.stage));
    b.template load<3>(fb[1], ring.stage, ring.left);
    multiply<2, true>(a.at(3, ring.stage));
    ring.before = ring.stage;
    ring.stage = ring.stage == (kStages - 1) * C::kPitch ? 0 : ring.stage + C::kPitch;
    if (--ring.left == 0) return false;
    ptx::cp_async_wait_group<kStages - 2>();
    __syncthreads();  // H1, H2
    b.template load<0>(fb[0], ring.stage, ring.left);
    multiply<3, true>(a.at(0, ring.stage));
    return true;
  }

  // The next tile, if so many are left.
  template <int kAhead>
  __device__ __forceinline__ void copy(int left, uint32_t stage) {
    if (left > 1) {
      b.template copy<kAhead>(stage, left);
      a.template copy<kAhead>(stage);
    } else if (left == 1) {
      b.template copy<kAhead>(stage, left);
      a.template copy_last<kAhead>(stage, last);
    }
    ptx::cp_async_commit_group();
    if constexpr (kAhead == kTurn - 1) {
      a.advance(kTurn);
      b.advance(kTurn);
    }
  }

  // A step of 16, 16 rows of x at a time; those of the next step, which are at `at`, take their place.
  template <int kStep, bool kMore>
  __device__ __forceinline__ void multiply(uint32_t at) {
#pragma unroll
    for (int i = 0; i < A::kBlocks; ++i) {
#pragma unroll
      for (int j = 0; j < B::kBlocks; ++j) {
        fragment::mma<C::kElement>(acc[i][2 * j], fa[i], fb[kStep % 2][j][0], fb[kStep % 2][j][1]);
        fragment::mma<C::kElement>(acc[i][2 * j + 1], fa[i], fb[kStep % 2][j][2], fb[kStep % 2][j][3]);
      }
      if (kMore) A::load(fa[i], at, i);
    }
  }
};

}  // namespace q4
