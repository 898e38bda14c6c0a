// What OpenVINO asks a library of operations for, and what the system is asked for.
#include <openvino/core/extension.hpp>
#include <openvino/core/op_extension.hpp>
#include <sys/syscall.h>
#include <unistd.h>

#include "ops.hpp"

bool sightline::tiles_granted() {
  constexpr int kAskForPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  static const bool granted = syscall(SYS_arch_prctl, kAskForPermission, kTileData) == 0;
  return granted;
}

OPENVINO_CREATE_EXTENSIONS(std::vector<ov::Extension::Ptr>({
    std::make_shared<ov::OpExtension<sightline::Linear>>(),
    std::make_shared<ov::OpExtension<sightline::FrameAttention>>(),
    std::make_shared<ov::OpExtension<sightline::Experts>>(),
}));
