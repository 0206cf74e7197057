# Prints the table; see bench/run.

for file <- ~w(stats start stop throughput memory scan count pauses list peers/peers io),
    do: Code.require_file("#{file}.exs", __DIR__)

{:ok, _apps} = Application.ensure_all_started(:leash)

parts = [
  {"start", &Bench.Start.rows/0},
  {"stop", &Bench.Stop.rows/0},
  {"throughput", &Bench.Throughput.rows/0},
  {"memory", &Bench.Memory.rows/0},
  {"scan", &Bench.Scan.rows/0},
  {"list", &Bench.List.rows/0},
  # Last: it makes the protocols anew.
  {"io", &Bench.Io.rows/0}
]

wanted = System.argv()

first_match = fn path, pattern ->
  with {:ok, text} <- File.read(path), [_all, found] <- Regex.run(pattern, text) do
    found
  else
    _none -> "unknown"
  end
end

cpu = first_match.("/proc/cpuinfo", ~r/^model name\s*: (.*)$/m)
kernel = first_match.("/proc/version", ~r/^Linux version (\S+)/)

IO.puts("""
#{Date.utc_today()}, #{System.schedulers_online()} cores of #{cpu}, Linux #{kernel}, \
Elixir #{System.version()}, OTP #{System.otp_release()}. Medians of interleaved rounds in one run.

| what | Leash | beside | ratio | aim |
|---|---|---|---|---|\
""")

for {name, rows} <- parts, wanted == [] or name in wanted, row <- rows.() do
  IO.puts("| #{row.what} | #{row.ours} | #{row.beside} | #{row.ratio} | #{row.aim} |")
end

latency = Path.join(__DIR__, "nif_latency.exs")

if File.exists?(latency) and (wanted == [] or "nif" in wanted) do
  IO.puts("")
  Code.require_file(latency)
end
