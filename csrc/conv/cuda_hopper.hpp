// Convolutions of 16-bit elements on Hopper: the plan of cuda_hopper.cu. They are the products of
// cuda.cu on the ring of gemm/cuda_hopper.hpp, with its tiles, stages, shared memory, registers and epilogue; what
// is copied into a stage differs, and nothing else.
//
//   forward    a row is a pixel of the result, k a place of the kernel and 64 channels of the source: 128 pixels come
//              in one copy by the map of the source as an image (core/cuda_tensor_map.hpp), which steps by the
//              stride and fills with zeros beside the image; weights, rows in the order of the taps, in boxes
//   by x       the same with the image of dy, places the other way round; of a stride, one such product for every
//              residue of the position modulo the stride, over the places of the kernel that it meets: no zeros are
//              multiplied, where the portable kernel multiplies all places. A residue that meets none is stored as sums of nothing. 27
//              residues at most
//   by W       a row is a channel of dy, a column a place of the kernel and a channel of x, k 64 pixels of the
//              result. Neither operand is along k, which wgmma reads as they lie: boxes of 64 channels of dy, and
//              64 channels of the 64 pixels of x that the place meets. Parts of the pixels as in cuda.cu
//
// Bits. Forward and by x the channels of a place are taken 64 at a time; the last stage of a place has 16, 32 or 48 if
// that is what is left, and as many products: 16 | channels of a group, and each 16 of k are those of the portable
// kernel. By W each 16 pixels are.
//
// Arithmetic. A stage of the largest tile multiplies for 1024 cycles and copies 48 KiB, as in gemm: 16 KiB are patches,
// of which a pixel comes again with each place of the kernel, from L2. 3 x 3 of 256 channels on 14 x 14, 256
// samples: 50176 pixels are 392 tiles of 128 x 256, 2.97 of them a multiprocessor: 3 rounds of 36 stages, of 1024
// cycles each, 63 us at 1.755 GHz if nothing else held them up; 790 TFLOP/s would take 75. 64 channels on 56 x 56: 6272 tiles
// of 64 columns, 48 rounds of 9 stages of 256 cycles, 63 us; but each stage reads 24 KiB, 96 bytes a cycle, where L2 has some
// 40: bound by that, about 150 us. The portable kernel at 40 % of the peak would take 190.
// By W 64 channels of dy fill half of a tile's 128 rows.
//
// Channels_first. The image that is read is copied to channels_last first, and results leave 16 pixels of a channel at
// a time, 32 bytes, through the same shared memory. For the 64 channels above that reads and writes 103 MB, 48 us of 4.3 TB/s, where
// the portable kernel gathers its 16-bit elements one by one through registers. A sum takes its products in the order of channels_last
// then, taps outside, channels inside; the portable kernel takes channels_first the other way round. By W nothing is
// different. 1 x 1 of stride 1 is a product of matrices as it lies, in either layout: gemm_on_hopper.
//
// Limits of maps (CUDA driver API, cuTensorMapEncodeIm2col): strides to 8; corners, -pad and pad - (kernel - 1) dilation
// (and what the stride leaves), of 16 / axes bits with sign; places (kernel - 1) dilation of 16 / axes bits: 3
// axes, -16 to 15 and 30; 2 axes, -128 to 127 and 254. 8 | channels, multiples of 16 bytes. Everything else goes the portable
// way.
#pragma once
#include "conv/conv.hpp"
#include "core/cuda_tile.hpp"

namespace arraynn::cuda {

// Whether the product of a shape, the convolution or with by_x its gradient by x, can go this way; and that by W.
bool conv_fits_hopper(const Conv2dProblem& p, bool by_x);
bool conv_weight_fits_hopper(const Conv2dProblem& p);

// Channels_first to channels_last, whole packs of channels.
template <class T>
void turn_planes(const T* x, std::int64_t n, std::int64_t channels, std::int64_t plane, T* out);

// Whether it was launched; if not, nothing was. Images that are read lie in channels_last, `out` and the residual in
// p's layout; weights are rows of taps of channels_last, `stride` apart, of all groups.
template <class T>
bool conv_on_hopper(const Conv2dProblem& p, bool by_x, const T* source, const T* weights,
                    std::int64_t stride, const ConvEpilogue<T>& e, T* out);
// Parts of the pixels, one after the other at `sums`.
template <class T>
bool conv_weight_on_hopper(const Conv2dProblem& p, const T* dy, const T* x, Parts parts,
                           float* sums);

}  // namespace arraynn::cuda
