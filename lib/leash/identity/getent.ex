defmodule Leash.Identity.Getent do
  # Asks getent(1), which knows all sources of nsswitch.conf(5). A source may be a server that
  # does not answer. So the program runs below a shim, whose tree ends with the process that asks.
  @moduledoc false

  alias Leash.{RunId, Shim}

  @most_ms 2_000

  @doc """
  Returns the first line about a key.

  A machine without getent(1) has no sources but its files. Then every key is unknown.
  """
  @spec entry(String.t(), binary()) :: {:ok, binary()} | {:error, :unknown | :timeout}
  def entry(database, key) do
    case System.find_executable("getent") do
      nil -> {:error, :unknown}
      getent -> ask([getent, database, key])
    end
  end

  @doc "Returns the milliseconds after which an answer is given up."
  @spec most_ms() :: pos_integer()
  def most_ms, do: @most_ms

  # In a process of its own, so that no message of the port reaches the caller's mailbox.
  defp ask(command) do
    {pid, monitor} = spawn_monitor(fn -> exit({:shutdown, answer(command)}) end)

    receive do
      {:DOWN, ^monitor, :process, ^pid, {:shutdown, answer}} -> answer
      {:DOWN, ^monitor, :process, ^pid, _crash} -> {:error, :unknown}
    end
  end

  defp answer(command) do
    port =
      Port.open({:spawn_executable, Path.absname(Shim.path())}, [
        :binary,
        :exit_status,
        :hide,
        {:args, Shim.for_helper(RunId.generate(), command)}
      ])

    read(port, "", System.monotonic_time(:millisecond) + @most_ms)
  end

  defp read(port, text, deadline) do
    receive do
      {^port, {:data, more}} -> read(port, text <> more, deadline)
      {^port, {:exit_status, 0}} -> {:ok, text |> :binary.split("\n") |> hd()}
      {^port, {:exit_status, _unknown}} -> {:error, :unknown}
    after
      max(0, deadline - System.monotonic_time(:millisecond)) -> {:error, :timeout}
    end
  end
end
