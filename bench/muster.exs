defmodule Bench.Muster do
  # Programs whose presence and end the kernel tells (bench/muster.c), for every contestant the same and whoever
  # started them: nothing is polled, and nobody's word is taken for it.
  @moduledoc false

  @enforce_keys [:port, :fifo]
  defstruct [:port, :fifo]

  @wait 120_000

  @doc "Makes the meeting place of so many; the calling process learns of them."
  def open(count) do
    fifo =
      Path.join(
        System.fetch_env!("LEASH_BENCH_WORK"),
        "muster-#{System.unique_integer([:positive])}"
      )

    port =
      Port.open({:spawn_executable, program()}, [
        {:args, ["await", fifo, "#{count}"]},
        {:line, 80},
        :binary,
        :exit_status
      ])

    muster = %__MODULE__{port: port, fifo: fifo}
    "ready" = line(muster)
    muster
  end

  @doc "The program and the arguments of a member: `\"\"`, `\"stubborn\"` or `\"stdin\"`."
  def member(muster, how \\ ""), do: {program(), ["member", muster.fifo, how]}

  @doc "The program and the arguments of one with so many below it."
  def tree(muster, count), do: {program(), ["tree", muster.fifo, "#{count}"]}

  @doc "Returns when all are there, with the numbers of those that were told: a few are, many are not."
  def up(muster, pids \\ []) do
    case line(muster) do
      "up" -> Enum.reverse(pids)
      pid -> up(muster, [String.to_integer(pid) | pids])
    end
  end

  @doc "Returns when the last has ended."
  def gone(muster) do
    await_gone(muster)
    close(muster)
  end

  @doc "The same, and `close/1` is still to be called: where even that counts."
  def await_gone(muster), do: "gone" = line(muster)

  def close(muster) do
    File.rm!(muster.fifo)
    receive do: ({port, {:exit_status, 0}} when port == muster.port -> :ok)
  end

  defp line(%{port: port}) do
    receive do
      {^port, {:data, {:eol, line}}} -> line
      {^port, {:exit_status, status}} -> raise "the muster ended with status #{status}"
    after
      @wait -> raise "not all came or went within #{@wait} ms"
    end
  end

  defp program, do: Path.join(System.fetch_env!("LEASH_BENCH_WORK"), "muster")
end
