defmodule Bench.Muster do
  # Programs whose presence and end the kernel reports (bench/muster.c), the same for every
  # contestant. The measurement polls nothing and relies on no library's report.
  @moduledoc false

  @enforce_keys [:port, :fifo]
  defstruct [:port, :fifo]

  @wait 120_000

  @doc "Makes the meeting place of so many programs. The calling process gets their messages."
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

  @doc """
  Returns the program and the arguments of a member: `\"\"`, `\"stubborn\"` or `\"stdin\"`.
  """
  def member(muster, how \\ ""), do: {program(), ["member", muster.fifo, how]}

  @doc "Returns the program and the arguments of a program with so many below it."
  def tree(muster, count), do: {program(), ["tree", muster.fifo, "#{count}"]}

  @doc """
  Returns when all are there. The result is the numbers of those that report them: a few do, many
  do not.
  """
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

  @doc "Does the same without `close/1`, for callers that measure without its cost."
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
