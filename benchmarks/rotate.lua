-- Sends the bodies of a file (one JSON object a line) in turn, over connections that stay open.
--   wrk ... -s rotate.lua URL -- BODIES THREADS counted|timed
-- The last line of the output is "RESULT " and JSON. With "timed" each thread must have one connection; it then also notes
-- when each request was sent and answered, in seconds of the monotonic clock.

local ffi = require("ffi")
ffi.cdef("typedef struct { long s; long ns; } timespec; int clock_gettime(int clock, timespec *t);")
local CLOCK_MONOTONIC = 1
local clock = ffi.new("timespec")
local threads = {}
local requests, at = {}, 0

local function now()
   ffi.C.clock_gettime(CLOCK_MONOTONIC, clock)
   return tonumber(clock.s) + tonumber(clock.ns) * 1e-9
end

function setup(thread)
   thread:set("index", #threads)
   table.insert(threads, thread)
end

function init(args)
   for body in io.lines(args[1]) do
      requests[#requests + 1] = wrk.format("POST", nil, { ["Content-Type"] = "application/json" }, body)
   end
   -- Threads begin at different places of the file, so that no two send the same at once.
   at = math.floor(#requests / tonumber(args[2]) * index)
   sent_at, answered = 0, {}
   if args[3] == "timed" then
      response = function()
         answered[#answered + 1] = sent_at
         answered[#answered + 1] = now()
      end
   end
end

function request()
   at = at % #requests + 1
   sent_at = now()
   return requests[at]
end

function done(summary, latency)
   local errors = summary.errors
   local spans = {}
   for i, thread in ipairs(threads) do
      local times = {}
      for j, time in ipairs(thread:get("answered")) do times[j] = string.format("%.6f", time) end
      spans[i] = "[" .. table.concat(times, ",") .. "]"
   end
   local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
   io.write(string.format(
      'RESULT {"requests":%d,"seconds":%.6f,"failed":%d,"p50_ms":%.3f,"p95_ms":%.3f,"p99_ms":%.3f,"spans":[%s]}\n',
      summary.requests, summary.duration / 1e6, failed,
      latency:percentile(50) / 1e3, latency:percentile(95) / 1e3, latency:percentile(99) / 1e3,
      table.concat(spans, ",")
   ))
end
