// The entry of moe_route. -DINFER_ENTRY=<name>
#include "common/entry.cuh"
#include "moe/route.cuh"

INFER_ENTRY_POINT(INFER_ENTRY, RouteParams, ROUTE_PARAMS_FIELDS, moe::RouteConfig, moe::route)
