// Which elements of a parameter a tensor has.
//
// Note [Shards]
// A tensor may be a shard of a parameter: rows of `row_length` elements, in the order of its memory, whose first begins
// at element `offset` of the parameter and which begin `row_stride` elements apart there. So element i of the shard is
// element
//     offset + (i div row_length) row_stride + i mod row_length
// of the parameter. A shard that is one range of it has row_length = row_stride = 0, and element offset + i.
#pragma once

#include "config.h"
#include "settings.h"

ALD_EXT_MATH_BEGIN

ALD_EXT_INLINE std::int64_t element_of_parameter(const Shard& shard, std::int64_t i) {
    if (shard.row_length == 0) return shard.offset + i;
    return shard.offset + i / shard.row_length * shard.row_stride + i % shard.row_length;
}

ALD_EXT_MATH_END
