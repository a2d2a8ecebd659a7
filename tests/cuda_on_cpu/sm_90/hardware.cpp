// What the hardware does of itself in a kernel for sm_90a: it copies boxes of tensors, and multiplies tiles.
#include "barriers.h"
#include "tensor_copies.h"
#include "warpgroups.h"

namespace cuda_on_cpu {
namespace {

void begin_block() {
    begin_barriers(), begin_tensor_copies(), begin_products();
}

// Products come last: so whoever overwrites their tiles is early enough.
bool goes_on() {
    if (a_tensor_copy_arrives() || products_are_made()) return true;
    require_that_no_barrier_is_awaited();
    return false;
}

void end_block() {
    require_that_all_have_arrived(), require_that_all_products_were_awaited();
}

const bool is_there = (hardware = {begin_block, goes_on, end_block}, true);

}  // namespace
}  // namespace cuda_on_cpu
