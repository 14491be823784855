-- Sends the lines of a file in turn, and notes when how many replies of which status came.
--   wrk --threads 1 ... -s tally.lua URL -- FILE BINS_PER_S
-- A line is the request's x-request-timeout-ms, or nothing; a tab; its body. The last line of the output is "RESULT " and JSON.

local ffi = require("ffi")
ffi.cdef("typedef struct { long s; long ns; } timespec; int clock_gettime(int clock, timespec *t);")
local CLOCK_REALTIME = 0
local clock = ffi.new("timespec")
local threads = {}
local requests, at, per_s = {}, 0, 1

function setup(thread)
   table.insert(threads, thread)
end

function init(args)
   counts = {}
   for line in io.lines(args[1]) do
      local timeout_ms, body = line:match("^(%d*)\t(.*)$")
      local headers = { ["Content-Type"] = "application/json" }
      if timeout_ms ~= "" then headers["x-request-timeout-ms"] = timeout_ms end
      requests[#requests + 1] = wrk.format("POST", nil, headers, body)
   end
   per_s = tonumber(args[2])
end

function request()
   at = at % #requests + 1
   return requests[at]
end

function response(status)
   ffi.C.clock_gettime(CLOCK_REALTIME, clock)
   local bin = math.floor((tonumber(clock.s) + tonumber(clock.ns) * 1e-9) * per_s)
   local key = string.format("%.0f %d", bin, status)
   counts[key] = (counts[key] or 0) + 1
end

function done(summary, latency)
   local rows = {}
   for key, count in pairs(threads[1]:get("counts")) do
      local bin, status = key:match("(%d+) (%d+)")
      rows[#rows + 1] = string.format("[%s,%s,%d]", bin, status, count)
   end
   local errors = summary.errors
   io.write(string.format(
      'RESULT {"requests":%d,"seconds":%.6f,"refused":%d,"lost":%d,"p95_s":%.6f,"rows":[%s]}\n',
      summary.requests, summary.duration / 1e6, errors.status,
      errors.connect + errors.read + errors.write + errors.timeout, latency:percentile(95) / 1e6,
      table.concat(rows, ",")
   ))
end
