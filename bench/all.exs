# Prints the tables, and writes them as files; see bench/run.

for file <-
      ~w(stats json count peers/peers row alone muster herd pauses start many stop monitor kill memory scan plot throughput list io),
    do: Code.require_file("#{file}.exs", __DIR__)

alias Bench.{Json, Peers, Plot, Row}

# Consolidates the protocols again with the peers' structs, before anything is measured.
Code.ensure_loaded!(Leash)
Bench.Count.consolidate(Peers.load())
{:ok, _apps} = Application.ensure_all_started(:leash)

# Rows with aims: the first table, the JSON file and the plot.
aims = [
  {"start", &Bench.Start.rows/0},
  {"many", &Bench.Many.rows/0},
  {"stop", &Bench.Stop.rows/0},
  {"monitor", &Bench.Monitor.rows/0},
  {"memory", &Bench.Memory.rows/0},
  {"kill", &Bench.Kill.rows/0},
  {"scan", &Bench.Scan.rows/0}
]

others = [
  {"throughput", &Bench.Throughput.rows/0},
  {"list", &Bench.List.rows/0},
  {"io", &Bench.Io.rows/0}
]

wanted = System.argv()
wanted? = fn {name, _rows} -> wanted == [] or name in wanted end

first_match = fn path, pattern ->
  with {:ok, text} <- File.read(path), [_all, found] <- Regex.run(pattern, text) do
    found
  else
    _none -> "unknown"
  end
end

machine = %{
  date: to_string(Date.utc_today()),
  cores: System.schedulers_online(),
  cpu: first_match.("/proc/cpuinfo", ~r/^model name\s*: (.*)$/m),
  kernel: first_match.("/proc/version", ~r/^Linux version (\S+)/),
  elixir: System.version(),
  otp: to_string(System.otp_release()),
  leash: to_string(Application.spec(:leash, :vsn)),
  load_before: first_match.("/proc/loadavg", ~r/^(\S+)/)
}

out = System.fetch_env!("LEASH_BENCH_OUT")
File.mkdir_p!(out)
{:ok, table} = File.open(Path.join(out, "table.md"), [:write, :utf8])

# A part takes up to minutes, so each line is printed as soon as it is known.
say = fn line ->
  IO.puts(line)
  IO.puts(table, line)
end

line = fn cells -> say.("| " <> Enum.join(cells, " | ") <> " |") end
rule = fn heads -> line.(Enum.map(heads, fn _ -> "---" end)) end

sentence =
  "#{machine.date}, #{machine.cores} cores of #{machine.cpu}, Linux #{machine.kernel}, " <>
    "Elixir #{machine.elixir}, OTP #{machine.otp}, load #{machine.load_before} before. " <>
    "Medians of interleaved rounds in one run."

say.(sentence <> "\n")

# A part that fails does not cost the others' minutes; the exit status reports it.
measure = fn {name, rows} ->
  try do
    {rows.(), nil}
  catch
    kind, reason ->
      IO.puts(:stderr, Exception.format(kind, reason, __STACKTRACE__))
      {[], name}
  end
end

failed = :counters.new(1, [])

rows_of = fn part ->
  {rows, failure} = measure.(part)

  if failure do
    :counters.add(failed, 1, 1)
    say.("\n**#{failure} could not be measured**\n")
  end

  rows
end

rows =
  if Enum.any?(aims, wanted?) do
    line.(Row.heads())
    rule.(Row.heads())

    for part <- aims, wanted?.(part), row <- rows_of.(part) do
      line.(Row.cells(row))
      row
    end
  else
    []
  end

peers =
  for {name, label, contestant} <- Peers.columns(), into: %{} do
    {name, if(contestant == :not_built, do: "no figures: #{Peers.why_not(name)}", else: label)}
  end

if rows != [] do
  say.("")
  for {name, what} <- Enum.sort(peers), do: say.("* #{name}: #{what}")
end

# Written first, so that the files are there whatever happens to the rest.
if rows != [] do
  json = %{machine: machine, peers: peers, rows: Enum.map(rows, &Row.to_map/1)}
  File.write!(Path.join(out, "figures.json"), Json.encode(json))

  versions =
    for {name, label, %{}} <- Peers.columns(),
        do: "#{name} #{label |> String.split() |> List.last()}"

  svg = Plot.svg(rows, Enum.join(versions, ", "), String.replace(sentence, ~r/ Medians.*/, ""))
  File.write!(Path.join(out, "figures.svg"), svg)
end

if Enum.any?(others, wanted?) do
  say.("")
  line.(~w(what Leash beside ratio aim))
  rule.(~w(what Leash beside ratio aim))

  for part <- others,
      wanted?.(part),
      row <- rows_of.(part),
      do: line.([row.what, row.ours, row.beside, row.ratio, row.aim])
end

File.close(table)

if wanted == [] or "nif" in wanted do
  IO.puts("")
  Code.require_file("nif_latency.exs", __DIR__)
end

if :counters.get(failed, 1) > 0, do: exit({:shutdown, 1})
