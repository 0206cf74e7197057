defmodule Leash.Test.NativeTerms.Any do
  @moduledoc """
  Random terms of every kind, and terms that look like a native function's argument. They come
  from `:rand` of the calling process.
  """

  @edges [0, 1, -1, 2, 31, 64, 255, 256, 32_766, 32_767, 65_535, 65_536] ++
           Enum.flat_map([31, 32, 63, 64, 128, 2_000], fn bits ->
             power = Bitwise.bsl(1, bits)
             [power - 1, power, -power, -power - 1]
           end)

  @atoms [nil, true, false, :ok, :error, :infinity, :undefined, :"", :stdin, :report, :end, :user]

  @typedoc "The values that the arguments are chosen from."
  @type known :: %{
          pids: [pos_integer()],
          sacrifices: [{pos_integer(), non_neg_integer(), non_neg_integer() | nil}],
          dir: Path.t(),
          pool: [reference()]
        }

  @doc """
  Returns the arguments for one parameter, several for `:identity`. A third of them are anything,
  and the others are nearly right.
  """
  @spec argument(atom(), known()) :: [term()]
  def argument(:identity, known) do
    if one_in(2),
      do: Tuple.to_list(pick(known.sacrifices)),
      else: Enum.flat_map([:pid, :ticks, :inode], &argument(&1, known))
  end

  def argument(parameter, known),
    do: [if(one_in(3), do: term(4, known), else: fitting(parameter, known))]

  defp fitting(:any, known), do: term(4, known)
  defp fitting(fd, known) when fd in [:fd, :lock, :hunt], do: pick([make_ref() | known.pool])
  defp fitting(:pid, known), do: pick([number() | known.pids])
  defp fitting(:ticks, known), do: pick([number(), elem(pick(known.sacrifices), 1)])
  defp fitting(:inode, known), do: pick([nil, number(), elem(pick(known.sacrifices), 2)])
  defp fitting(:worker, _known), do: pick([1, 2, 32_766, 0, number()])
  defp fitting(:workers, known), do: several(fn -> fitting(:worker, known) end)
  defp fitting(:size, _known), do: pick([1, 100, 70_000, number()])
  defp fitting(:signo, _known), do: pick([0, :rand.uniform(64), number()])
  defp fitting(:boolean, _known), do: pick([true, false])
  defp fitting(:how, _known), do: pick([:ladder, :kill])

  defp fitting(:ends, _known),
    do: pick([{source(), source(), source()}, {:terminal, 24, 80, pick([true, false])}])

  defp fitting(:environment, known), do: {fitting(:text, known), Enum.random(0..3)}
  defp fitting(:process, _known), do: pick([self(), spawn(fn -> :ok end)])
  defp fitting(:run, _known), do: pick(["s59m65f", word(7), "S59M65F", bytes()])

  defp fitting(:text, _known),
    do: pick(["", "x", "--run-id", bytes(), String.duplicate("é", 300)])

  defp fitting(:texts, known), do: several(fn -> fitting(:text, known) end)
  defp fitting(:iodata, known), do: iodata(5, known)

  defp fitting(:path, known),
    do: pick(["/", "/dev/null", "/bin/sh", "/proc/self/mem", dir(known)])

  defp fitting(:dir, known), do: dir(known)
  defp fitting(:cgroup, _known), do: pick(["leash-s59m65f-7", "leash-s59m65f-7-keep", bytes()])
  defp fitting(:cgroup_path, known), do: Path.join(dir(known), fitting(:cgroup, known))

  defp fitting(:cgroup_limits, known),
    do: pick([[], [{"pids.max", "7"}, {fitting(:text, known), fitting(:text, known)}]])

  defp fitting(:about, known),
    do: some(for key <- [:node, :app, :version, :started_at], do: {key, fitting(:text, known)})

  defp fitting(:members, known) do
    several(fn -> {fitting(:worker, known), pick([nil, fitting(:pid, known)])} end)
  end

  defp fitting(:spec, known) do
    {pid, ticks, inode} = pick(known.sacrifices)

    [
      kind: pick([:workers, :run, :sweep, :process, :other]),
      run_id: fitting(:run, known),
      own_run_id: pick([nil, fitting(:run, known)]),
      workers: several(fn -> fitting(:worker, known) end),
      outliving: pick([true, several(fn -> fitting(:worker, known) end)]),
      attached: several(fn -> fitting(:worker, known) end),
      adopted: pick([nil, {fitting(:ticks, known), number()}]),
      pid: pid,
      start_ticks: pick([ticks, number()]),
      pidfs_inode: pick([nil, inode]),
      deadline: pick([0, 10, number()]),
      ladder: several(fn -> {pick([:sigterm, 15, fitting(:signo, known)]), number()} end),
      scope: pick([nil, :user, :app, :other]),
      app: fitting(:text, known),
      mode: pick([nil, :end, :report, :other]),
      run_dir: pick([nil, dir(known)])
    ]
    |> Enum.map(fn {key, value} -> {key, if(one_in(20), do: term(3, known), else: value)} end)
    |> some()
  end

  # Takes most of the keys: a map without the key that counts is refused at once.
  defp some(pairs), do: for(pair <- pairs, not one_in(12), into: %{}, do: pair)

  # Only directories of the test. A relative path is below the working directory, which is the
  # test's, too.
  defp dir(known),
    do:
      pick([
        known.dir,
        known.dir,
        known.dir <> "/" <> word(3),
        "",
        word(5),
        "/dev/null",
        relative()
      ])

  defp relative do
    case bytes() do
      <<first, rest::binary>> when first in [?/, ?.] -> "x" <> rest
      other -> other
    end
    |> String.replace("..", "xx")
  end

  @doc "Returns any term, nested at most so deep."
  @spec term(non_neg_integer(), known()) :: term()
  def term(depth, known) do
    case :rand.uniform(if depth > 0, do: 22, else: 13) do
      1 -> number()
      2 -> pick(@edges)
      3 -> pick([0.0, -0.0, 1.5, 1.0e308])
      4 -> pick(@atoms)
      5 -> bytes()
      6 -> relative()
      7 -> bits()
      8 -> pick([make_ref(), :atomics.new(1, []), :counters.new(1, [])])
      9 -> pick([fn -> 1 end, &Enum.map/2, &:erlang.halt/1])
      10 -> pick([self(), hd(Port.list()), spawn(fn -> :ok end)])
      11 -> pick([make_ref() | known.pool])
      12 -> pick([[], %{}, {}, "", <<0>>, "s59m65f"])
      13 -> pick([String.duplicate("x", 70_000), List.duplicate(0, 3_000)])
      14 -> [term(depth - 1, known) | term(depth - 1, known)]
      15 -> for _ <- 1..:rand.uniform(20), do: number()
      16 -> List.to_tuple(several(fn -> term(depth - 1, known) end))
      17 -> Map.new(several(fn -> {term(depth - 1, known), term(depth - 1, known)} end))
      18 -> Map.new(several(fn -> {pick(@atoms), term(depth - 1, known)} end))
      19 -> Enum.reduce(1..:rand.uniform(2_000), term(0, known), fn _, inner -> [inner] end)
      20 -> pick([1..2, ~D[2026-01-01], ~r/x/, MapSet.new([1])])
      21 -> several(fn -> term(depth - 1, known) end)
      22 -> iodata(depth, known)
    end
  end

  defp iodata(0, _known), do: bytes()

  defp iodata(depth, known) do
    case :rand.uniform(8) do
      1 -> bytes()
      2 -> :rand.uniform(300) - 20
      3 -> [iodata(depth - 1, known) | bytes()]
      4 -> String.duplicate("y", :rand.uniform(100_000))
      5 -> bits()
      6 -> term(0, known)
      _ -> several(fn -> iodata(depth - 1, known) end)
    end
  end

  # Never the pid of a process that was not named: the numbers of a namespace are small.
  defp number do
    case :rand.uniform(4) do
      1 -> pick(@edges)
      2 -> :rand.uniform(100)
      3 -> :rand.uniform(5_000_000)
      4 -> Bitwise.bsl(:rand.uniform(1_000_000), :rand.uniform(60)) * pick([1, -1])
    end
  end

  defp bytes, do: :rand.bytes(:rand.uniform(24) - 1)

  # A part of a larger bitstring, and not always of whole bytes. The sizes are in the binary:
  # newer versions of Elixir pin a size that is bound outside of a pattern, and older ones cannot.
  defp bits do
    skipped = :rand.uniform(60)
    size = :rand.uniform(500 - skipped)
    whole = <<skipped::16, size::16, :rand.bytes(80)::binary>>
    <<skipped::16, size::16, _::size(skipped), part::bitstring-size(size), _::bitstring>> = whole
    part
  end

  defp word(length),
    do: for(_ <- 1..length, into: "", do: <<pick(~c"0123456789abcdefghijklmnopqrstuvwxyz")>>)

  defp several(fun), do: for(_ <- 1..:rand.uniform(4), do: fun.())
  defp one_in(count), do: :rand.uniform(count) == 1
  defp pick(list), do: Enum.random(list)

  defp source, do: pick([:none, :pipe, :inherit])
end
