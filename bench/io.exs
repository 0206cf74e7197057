defmodule Bench.Io do
  # `Leash.cmd`, `Leash.stream!` and `Leash.open_port` beside other libraries for the same work.
  # The figures are the throughput, and how long each keeps other processes waiting.
  #
  # The bytes are counted and not kept. Each library reads in portions of its own size. Each
  # sample has a new process, with a new heap and an empty mailbox.
  @moduledoc false

  alias Bench.{Alone, Count, Pauses, Peers, Stats}

  @gigabyte 1_073_741_824
  @head ["-c", "1G", "/dev/zero"]
  @blocks 4_096
  @block_bytes 65_536
  @rounds 7
  @pauses 4

  def rows do
    contestants = ours() ++ others() ++ Peers.all()

    rates("1 GiB from `head`", contestants, read(contestants)) ++
      rates(
        "256 MiB from a stream through `cat` and back",
        contestants,
        cat(contestants, blocks())
      ) ++
      rates(
        "256 MiB from a list through `cat` and back",
        contestants,
        cat(contestants, Enum.to_list(blocks()))
      ) ++
      pauses()
  end

  defp ours do
    [
      {"`Leash.cmd`",
       %{
         ours: true,
         read: fn program, args ->
           {bytes, 0} = Leash.cmd(program, args, into: %Count{})
           bytes
         end,
         cat: fn cat, input ->
           {bytes, 0} = Leash.cmd(cat, [], into: %Count{}, input: input)
           bytes
         end
       }},
      {"`Leash.stream!`",
       %{
         ours: true,
         read: fn program, args -> bytes(Leash.stream!(program, args)) end,
         cat: fn cat, input -> bytes(Leash.stream!(cat, [], input: input)) end
       }}
    ] ++
      if function_exported?(Leash, :open_port, 3),
        do: [{"`Leash.open_port`", port(&open_leashed/2) |> Map.put(:ours, true)}],
        else: []
  end

  defp others do
    [
      {"`System.cmd`",
       %{
         read: fn program, args ->
           {bytes, 0} = System.cmd(program, args, into: %Count{})
           bytes
         end,
         cat: nil
       }},
      {"bare `Port`", port(&open_bare/2)}
    ]
  end

  # A port cannot close stdin alone, so cat does not end by itself. Its work is done when all
  # bytes are back.
  defp port(open) do
    %{
      read: fn program, args -> await_exit(open.(program, args), 0) end,
      cat: fn cat, input ->
        port = open.(cat, [])
        spawn_link(fn -> Enum.each(input, &Port.command(port, &1)) end)
        bytes = await_bytes(port, 0)
        Port.close(port)
        bytes
      end
    }
  end

  @port_options [:binary, :exit_status, :hide]
  defp open_bare(program, args),
    do: Port.open({:spawn_executable, program}, [{:args, args} | @port_options])

  # Called by apply/3, because there are versions without it.
  defp open_leashed(program, args), do: apply(Leash, :open_port, [program, args, @port_options])

  defp await_exit(port, bytes) do
    receive do
      {^port, {:data, data}} -> await_exit(port, bytes + byte_size(data))
      {^port, {:exit_status, 0}} -> bytes
    end
  end

  defp await_bytes(_port, bytes) when bytes >= @blocks * @block_bytes, do: bytes

  defp await_bytes(port, bytes) do
    receive do
      {^port, {:data, data}} -> await_bytes(port, bytes + byte_size(data))
    end
  end

  defp bytes(stream), do: Enum.reduce(stream, 0, &(byte_size(&1) + &2))

  # Samples by label, in MB/s and µs.

  defp read(contestants) do
    head = System.find_executable("head")

    samples(
      contestants,
      :read,
      1,
      Stats.rounds(@rounds),
      &rate(fn -> &1.(head, @head) end, @gigabyte)
    )
  end

  defp cat(contestants, input) do
    cat = System.find_executable("cat")

    samples(
      contestants,
      :cat,
      1,
      Stats.rounds(@rounds),
      &rate(fn -> &1.(cat, input) end, @blocks * @block_bytes)
    )
  end

  # A lazy stream, as for input that is too large to be kept. A library may treat a list as a
  # whole.
  defp blocks do
    block = :binary.copy("leash io", div(@block_bytes, 8))
    Stream.map(1..@blocks, fn _number -> block end)
  end

  defp samples(contestants, what, warm_up, rounds, measure) do
    able =
      for {label, %{^what => function}} when function != nil <- contestants,
          do: {label, fn -> sample(label, fn -> measure.(function) end) end}

    Stats.interleave(able, warm_up)
    Stats.interleave(able, rounds)
  end

  # Some peers can take their caller with them, which the table counts. No other contestant may.
  defp sample(label, function) do
    case Alone.run(function) do
      {:ok, sample} ->
        sample

      {:exit, reason} ->
        if List.keymember?(Peers.all(), label, 0), do: {:failed, reason}, else: exit(reason)
    end
  end

  # If a library loses the end of a program's output, only the bytes that arrived count. The table
  # says so.
  defp rate(function, bytes) do
    {microseconds, arrived} = :timer.tc(function)
    {arrived / microseconds, bytes - arrived}
  end

  # Leash beside the best of the others, or beside the bare port. Then `Leash.cmd` beside each of
  # the others.

  defp rates(what, contestants, samples) do
    others =
      for {label, contestant} <- contestants,
          not ours?(contestant),
          good(samples[label] || []) != [],
          do: label

    best = Enum.max_by(others, &median_rate(good(samples[&1])))

    for {label, contestant} <- contestants, ours?(contestant) do
      0 = lost(samples[label])
    end

    table(what, contestants, samples, best, fn _contestant -> "≥ 1.00" end, &rate_texts/2)
  end

  defp table(what, contestants, samples, rival, aim, texts) do
    for {label, contestant} <- contestants, ours?(contestant) do
      row(what, {label, samples[label]}, {rival, samples[rival]}, aim.(contestant), texts)
    end ++
      for {label, contestant} <- contestants, not ours?(contestant), label != rival do
        theirs = if contestant == :not_built, do: :not_built, else: samples[label]
        row(what, {"`Leash.cmd`", samples["`Leash.cmd`"]}, {label, theirs}, "—", texts)
      end
  end

  defp row(what, {our_label, ours}, {label, theirs}, aim, texts) do
    {beside, ratio} =
      case theirs do
        :not_built -> {"not built", "—"}
        nil -> {"cannot", "—"}
        samples -> beside(ours, good(samples), failures(samples), texts)
      end

    %{
      what: "#{what}, #{our_label}",
      ours: elem(texts.(ours, ours), 0),
      beside: "#{label} #{beside}",
      ratio: ratio,
      aim: aim
    }
  end

  defp beside(_ours, [], failures, _texts), do: {"failed#{failures}", "—"}

  defp beside(ours, theirs, failures, texts) do
    {text, _one} = texts.(theirs, theirs)
    {_text, ratio} = texts.(ours, theirs)
    {text <> failures, ratio}
  end

  defp good(samples), do: Enum.reject(samples, &match?({:failed, _reason}, &1))

  defp failures(samples) do
    case for({:failed, reason} <- samples, do: reason) do
      [] ->
        ""

      [reason | _] = all ->
        "; #{length(all)} of #{length(samples)} ended the caller: #{inspect(reason)}"
    end
  end

  defp rate_texts(samples, others) do
    median = median_rate(samples)

    note =
      case lost(samples) do
        0 -> ""
        lost -> ", lost up to #{lost} bytes"
      end

    {"#{round(median)} MB/s#{note}", Stats.round_to(median / median_rate(others), 2)}
  end

  defp median_rate(samples), do: samples |> Enum.map(&elem(&1, 0)) |> Stats.median()
  defp lost(samples), do: samples |> Enum.map(&elem(&1, 1)) |> Enum.max()

  defp ours?(contestant), do: is_map(contestant) and Map.has_key?(contestant, :ours)

  # The same work with Leash and without it, and an idle VM for as long.

  defp pauses do
    {head, cat, input} = {System.find_executable("head"), System.find_executable("cat"), blocks()}
    all = Map.new(ours() ++ others())
    read = fn label -> fn -> all[label].read.(head, @head) end end
    cat = fn label -> fn -> all[label].cat.(cat, input) end end

    pairs =
      for {what, label, ours, rival, theirs} <- [
            {"reading 1 GiB", "`Leash.cmd`", read, "`System.cmd`", read},
            {"256 MiB both ways", "`Leash.stream!`", cat, "bare `Port`", cat},
            {"256 MiB both ways", "`Leash.open_port`", cat, "bare `Port`", cat}
          ],
          Map.has_key?(all, label),
          do: {what, {label, ours.(label)}, {rival, theirs.(rival)}}

    idle = {:idle, fn -> Process.sleep(500) end}

    contestants =
      for {what, ours, theirs} <- pairs,
          {label, function} <- [ours, theirs],
          uniq: true,
          do: {{what, label}, function}

    samples =
      [idle | contestants]
      |> Enum.uniq_by(&elem(&1, 0))
      |> Enum.map(fn {name, function} ->
        {name, fn -> Pauses.during(fn -> {:ok, _} = Alone.run(function) end) end}
      end)
      |> Stats.interleave(Stats.rounds(@pauses))
      |> Map.new(fn {name, rounds} -> {name, Pauses.merge(rounds)} end)

    for {what, {label, _}, {rival, _}} <- pairs,
        {ours, theirs} = {samples[{what, label}], samples[{what, rival}]},
        {key, seen, aim} <- [
          {:late, "how late others are woken", "—"},
          {:stretches, "time without a break", "99 % ≤ 1 ms"}
        ] do
      idle = if key == :late, do: ", idle VM #{Pauses.text(samples.idle.late)}", else: ""

      %{
        what: "#{seen} (median / 99 % / longest), #{what}, #{label}",
        ours: Pauses.text(ours[key]),
        beside: "#{rival} #{Pauses.text(theirs[key])}#{idle}",
        ratio: Pauses.ratio(ours[key], theirs[key], 99),
        aim: aim
      }
    end
  end
end
