// Both front ends bring assert by themselves; a failed one traps.
#pragma once
