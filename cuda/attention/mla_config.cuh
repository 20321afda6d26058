// What distinguishes one MLA entry from another, and the shared memory that follows from it.
#pragma once

#include <cstdint>

#include "attention/decode_share.cuh"
#include "common/fragment.cuh"
#include "common/swizzle.cuh"

namespace mla {

// How far a block has come with its share. In shared memory, as no register has to hold it while tokens are attended to.
struct Progress {
  int64_t units;    // of all blocks
  int64_t at, end;  // the next unit, the one behind the last
  int64_t before;   // units before the window
  int32_t window;   // its first sequence
  int32_t floor;    // of queries, of the windows before
};

template <fragment::Element kElement_, int kRows>
struct Config {
  static constexpr fragment::Element kElement = kElement_;
  static constexpr bool kOptions = false;  // as decode's bookkeeping asks
  static constexpr int kWarps = 8;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kTileQ = kRows;  // pairs of query token and head
  static constexpr int kTileK = 32;
  static constexpr int kChunk = kTileK;  // keys of a CTA's step: what is shared out
  static constexpr int kStages = 2;
  static constexpr int kLatentDim = 512, kRopeDim = 64;
  static constexpr int kLatentBytes = 2 * kLatentDim, kRopeBytes = 2 * kRopeDim;  // of a row
  static constexpr int kWeightBytes = 2 * kTileK;                                  // of a row of P
  static constexpr int kPartial = kTileQ * (kLatentDim + 2);  // floats of a partial result

  // How warps share S: by rows, by tokens and by depth. Each reads its part of Q and of K: the more alike the extents of
  // a part, the less there is to read. Parts of the depth have to be added up: of 64 rows, there is room for two of them.
  static constexpr int kRowWarps = kRows == 64 ? 2 : 1;
  static constexpr int kTokenWarps = kRows == 64 ? 1 : 2;
  static constexpr int kDepthWarps = 4;
  static constexpr int kParts = kRows == 64 ? 2 : 4;
  static constexpr int kScoreBlocks = kRows / 16 / kRowWarps;  // row blocks of 16 of a warp's part of S
  static constexpr int kScoreCols = kTileK / 8 / kTokenWarps;  // and its accumulator blocks of 8 tokens
  static constexpr int kOutBlocks = kRows / 16;                // and of its 64 columns of O: all rows
  static constexpr int kOutCols = kLatentDim / kWarps / 8;     // accumulator blocks of these columns
  static_assert(kRowWarps * kTokenWarps * kDepthWarps == kWarps, "each warp has a part");
  static_assert(kDepthWarps == kParts || kDepthWarps == 2 * kParts, "a warp takes in at most one part of another");
  static_assert(kRopeDim / 16 % kDepthWarps == 0, "whole mma steps");
  static_assert(kLatentDim / kWarps * 2 == 128, "a warp's columns of O are a line of the latents");

  // How threads share the softmax: neighbouring lanes have the tokens of a row.
  static constexpr int kRowLanes = kThreads / kRows;
  static constexpr int kLaneTokens = kTileK / kRowLanes;

  template <int kCount>
  struct Tile {
    unsigned char latent[kCount * kLatentBytes];
    unsigned char rope[kCount * kRopeBytes];  // of keys: in its place P, once S is there
  };
  static_assert(kRows * kWeightBytes <= kTileK * kRopeBytes, "P takes the place of the rotary keys");

  static constexpr int kAhead = 4;  // items that are looked up before the table gives way to tiles

  struct Work {
    Tile<kRows> queries;
    Tile<kTileK> keys[kStages];                  // in the end the output, line by line of a warp's columns
    float scores[kParts][kRows * kTileK];  // parts of S; see `score_at`
  };
  struct Smem {
    union {
      Work work;                          // while an item is attended to
      decode::Sequence table[kThreads];  // before: sequences of one window of the batch
    };
    decode::Sequence sequences[kAhead];
    decode::Item items[kAhead];  // of these
    Progress progress;
    int64_t sums[kWarps];  // room of scans
    int32_t tops[kWarps];
    int32_t found;  // index into the table
    int32_t floor;  // no sequence of the next window may have queries before this row
    float m[kRows], l[kRows];
    float factor[kRows];                    // by which a row's output so far is to be multiplied
    unsigned char there[kStages][kTileK];  // whether a token's key exists
  };
  static constexpr uint32_t kSmemBytes = sizeof(Smem);
  static_assert(sizeof(Work::keys) >= kRows * kLatentBytes, "the output takes the place of the keys");

  using Scores = float[kScoreBlocks][kScoreCols][4];
  using Output = float[kOutBlocks][kOutCols][4];
};

}  // namespace mla
