// The door of quant/: what weights look like, on disk and in blocks.
#pragma once

#include "quant/base/error.h"
#include "quant/base/number.h"
#include "quant/base/view.h"
#include "quant/block_codec.h"
#include "quant/dtype.h"
#include "quant/gguf_reader.h"
#include "quant/gguf_writer.h"
#include "quant/safetensors_reader.h"
#include "quant/tensor.h"
