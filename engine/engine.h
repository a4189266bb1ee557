// The door of engine/.
#pragma once

#include "engine/model.h"
#include "engine/runtime.h"
#include "engine/sampler.h"
#include "engine/session.h"
#include "engine/text/chat_template.h"
