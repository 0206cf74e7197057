defmodule Leash.TreeView do
  # Draws workers and their processes as lines for a terminal, like the command `leash tree`.
  @moduledoc false

  alias Leash.{Error, Group, Listing, Registry, Run, Text, Usage}

  # In a deeper tree the parents are hard to see, and the lines of a long chain would take up
  # memory by its square.
  @deepest 32

  @spec draw(term()) :: String.t()
  def draw(which) do
    case Run.fetch() do
      {:ok, run} -> draw_run(run, Enum.filter(Registry.living(:all), &meant?(&1, which)))
      {:error, :not_running} -> "no run: the :leash application is not started\n"
      {:error, reason} -> draw_without_run(reason, which)
    end
  end

  # Programs on plain ports, see `Leash.Degraded`.
  defp draw_without_run(reason, which) do
    workers =
      Enum.filter(Listing.list(usage: false), &meant?(Map.put(&1, :number, &1.worker), which))

    lines =
      for {worker, last?} <- Enum.zip(workers, ends(workers)), do: worker(worker, %{}, last?)

    why = if workers == [], do: Error.format(reason), else: "programs are plain ports here"
    IO.iodata_to_binary(["no run: ", why, "\n", lines])
  end

  defp meant?(row, which) do
    Group.includes?(which, row.group) or Listing.same?(row, which)
  end

  defp draw_run(run, rows) do
    {listed, members} = look(rows)

    lines =
      listed
      |> Enum.zip(ends(listed))
      |> Enum.map(fn {worker, last?} -> worker(worker, members, last?) end)

    IO.iodata_to_binary([head(run, listed), lines])
  end

  defp look(rows) do
    case Usage.members(rows) do
      {:ok, members} ->
        sums = Map.new(members, fn {number, members} -> {number, Usage.sum(members)} end)
        {Listing.listed(rows, {:ok, sums}), members}

      :error ->
        {Listing.listed(rows, :error), %{}}
    end
  end

  defp head(run, listed) do
    owner = if run.owner, do: ["  owner ", "#{run.owner.pid}"], else: []
    processes = listed |> Enum.map(&(&1.processes || 0)) |> Enum.sum()
    rss = listed |> Enum.map(&(&1.rss || 0)) |> Enum.sum()

    [
      run.id,
      owner,
      ", ",
      count(length(listed), "worker", "workers"),
      ", ",
      count(processes, "process", "processes"),
      ", ",
      size(rss),
      "\n"
    ]
  end

  defp worker(worker, members, last?) do
    members = Map.get(members, worker.worker, [])
    known = Map.new(members, &{&1.os_pid, true})
    # Processes without a parent in the tree stand at the top: the program, and orphans.
    children = Enum.group_by(members, &if(is_map_key(known, &1.parent), do: &1.parent))
    below = if last?, do: "   ", else: "│  "

    # At once, so that the garbage collector finds one binary and not its thousands of parts.
    IO.iodata_to_binary([
      elbow(last?),
      "worker #{worker.worker} #{Text.printable(worker.label)}",
      if(worker.group, do: [" in ", Text.printable(inspect(worker.group))], else: []),
      " [",
      facts(worker),
      "]\n",
      processes(Map.get(children, nil, []), children, below, 1)
    ])
  end

  defp facts(worker) do
    sums =
      if worker.processes,
        do: [
          count(worker.processes, "process", "processes"),
          ", ",
          size(worker.rss),
          ", cpu ",
          cpu(worker.cpu),
          ", "
        ],
        else: []

    ending = if worker.tree == :ending, do: ", ending", else: ""
    [sums, age(worker.age), ending, last_exit(worker.last_exit)]
  end

  defp last_exit(nil), do: []

  defp last_exit(%{reason: reason, at: at}) do
    ago = max(0, DateTime.diff(DateTime.utc_now(), at, :millisecond))

    [
      ", last exit ",
      age(ago),
      " ago: ",
      Text.printable(inspect(reason, limit: 10, printable_limit: 100))
    ]
  end

  defp processes(siblings, children, indent, depth) do
    for {process, last?} <- Enum.zip(siblings, ends(siblings)) do
      deeper =
        cond do
          depth >= @deepest -> indent
          last? -> indent <> "   "
          true -> indent <> "│  "
        end

      [
        indent,
        elbow(last?),
        text(process.os_pid),
        " ",
        process.state,
        " [",
        size(process.rss),
        ", cpu ",
        cpu(process.cpu),
        ", ",
        age(process.age),
        "] ",
        # The native side has made it safe to print.
        process.command,
        "\n",
        processes(Map.get(children, process.os_pid, []), children, deeper, depth + 1)
      ]
    end
  end

  # Returns for each of them whether it is the last.
  defp ends([]), do: []
  defp ends([_ | rest]), do: Enum.map(rest, fn _ -> false end) ++ [true]

  defp elbow(true), do: "└─ "
  defp elbow(false), do: "├─ "

  defp count(1, one, _many), do: "1 #{one}"
  defp count(number, _one, many), do: "#{number} #{many}"

  @doc "Returns an age in its two largest units, from milliseconds."
  @spec age(non_neg_integer()) :: String.t()
  def age(ms) do
    seconds = div(ms, 1000)

    case {div(seconds, 86_400), rem(div(seconds, 3600), 24), rem(div(seconds, 60), 60)} do
      {0, 0, 0} -> text(seconds) <> "s"
      {0, 0, minutes} -> text(minutes) <> "m" <> two(rem(seconds, 60)) <> "s"
      {0, hours, minutes} -> text(hours) <> "h" <> two(minutes) <> "m"
      {days, hours, _minutes} -> text(days) <> "d" <> two(hours) <> "h"
    end
  end

  defp two(number) when number < 10, do: <<?0, ?0 + number>>
  defp two(number), do: text(number)

  # Interpolation asks a protocol each time, which for thousands of numbers is most of the work.
  defp text(number), do: Integer.to_string(number)

  @doc "Returns a size in the largest unit of 1024 that leaves at least one."
  @spec size(non_neg_integer()) :: String.t()
  def size(bytes), do: size(bytes, ["B", "K", "M", "G", "T"])

  defp size(number, [unit | larger]) when number < 1024 or larger == [], do: text(number) <> unit
  defp size(number, [_unit | larger]), do: size(div(number, 1024), larger)

  # Below a minute, with the hundredths in which the kernel counts.
  defp cpu(ms) when ms < 60_000,
    do: text(div(ms, 1000)) <> "." <> two(div(rem(ms, 1000), 10)) <> "s"

  defp cpu(ms), do: age(ms)
end
