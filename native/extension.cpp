// What OpenVINO asks a library of operations for. Loading it also asks the system for the use of AMX tiles.
#include <openvino/core/extension.hpp>
#include <openvino/core/op_extension.hpp>
#include <sys/syscall.h>
#include <unistd.h>

#include "ops.hpp"

namespace {
constexpr int kAskForPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
const bool granted = syscall(SYS_arch_prctl, kAskForPermission, kTileData) == 0;
}  // namespace

bool sightline::tiles_granted() { return granted; }

OPENVINO_CREATE_EXTENSIONS(std::vector<ov::Extension::Ptr>({
    std::make_shared<ov::OpExtension<sightline::Linear>>(),
    std::make_shared<ov::OpExtension<sightline::Head>>(),
    std::make_shared<ov::OpExtension<sightline::FrameAttention>>(),
    std::make_shared<ov::OpExtension<sightline::Experts>>(),
}));
