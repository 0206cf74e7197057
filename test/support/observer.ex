defmodule Leash.Test.Observer do
  @moduledoc """
  The outside view: what the kernel says in `/proc`, with none of the library's code.

  A process is its pid together with its start ticks, `t:identity/0`.
  """

  @type identity :: {pos_integer(), non_neg_integer()}

  @doc "Returns pid and start of the process that has the number now, or `nil` without one."
  @spec identity(pos_integer()) :: identity() | nil
  def identity(pid) do
    case stat("/proc/#{pid}/stat") do
      nil -> nil
      fields -> {pid, fields |> Enum.at(19) |> String.to_integer()}
    end
  end

  @doc "Whether this very process lives: any thread of it that is not a zombie counts."
  @spec alive?(identity()) :: boolean()
  def alive?({pid, _ticks} = identity), do: identity(pid) == identity and living_thread?(pid)

  # A leader whose main thread has ended is shown as Z while its other threads run. Until the last
  # of those is off the list, the kernel does not call the process ended either (pidfd, file
  # locks).
  defp living_thread?(pid) do
    case File.ls("/proc/#{pid}/task") do
      {:ok, [_one, _another | _rest]} ->
        true

      {:ok, threads} ->
        Enum.any?(threads, &(thread_state(pid, &1) not in [nil, "Z", "X"]))

      {:error, _gone} ->
        false
    end
  end

  defp thread_state(pid, thread) do
    with fields when fields != nil <- stat("/proc/#{pid}/task/#{thread}/stat"), do: hd(fields)
  end

  @doc "Returns every living process, with at least one living thread."
  @spec all() :: [identity()]
  def all do
    for name <- File.ls!("/proc"),
        {pid, ""} <- [Integer.parse(name)],
        identity = identity(pid),
        alive?(identity),
        do: identity
  end

  @doc "Returns the state letter of a process, or `nil` if it is gone."
  @spec state(pos_integer()) :: String.t() | nil
  def state(pid) do
    with fields when fields != nil <- stat("/proc/#{pid}/stat"), do: hd(fields)
  end

  @doc "Returns the parent of a process, or `nil` if it is gone."
  @spec parent(pos_integer()) :: non_neg_integer() | nil
  def parent(pid) do
    with [_state, parent | _rest] <- stat("/proc/#{pid}/stat"), do: String.to_integer(parent)
  end

  # The fields from the state on, so that index n is field n + 3 of proc(5). The name in brackets
  # may hold anything.
  defp stat(path) do
    with {:ok, line} <- File.read(path),
         [{last, 1} | _] <- line |> :binary.matches(")") |> Enum.reverse() do
      line |> binary_part(last + 1, byte_size(line) - last - 1) |> String.split()
    else
      _gone -> nil
    end
  end

  @doc "Returns the arguments of a process."
  @spec argv(pos_integer()) :: [binary()]
  def argv(pid) do
    case File.read("/proc/#{pid}/cmdline") do
      {:ok, line} -> line |> String.trim_trailing(<<0>>) |> String.split(<<0>>)
      {:error, _gone} -> []
    end
  end

  @doc "Returns every process whose argv holds this very argument."
  @spec with_argument(binary()) :: [identity()]
  def with_argument(argument),
    do: Enum.filter(all(), fn {pid, _ticks} -> argument in argv(pid) end)

  @doc "Returns the text for a process in a message."
  @spec describe(identity()) :: String.t()
  def describe({pid, _ticks}),
    do:
      "#{pid} (#{state(pid) || "gone"}) #{pid |> argv() |> Enum.join(" ") |> String.slice(0, 200)}"

  @doc """
  Signals a process that the tests started, if it still is that process.

  The signal goes by number, since this is the view of an operator with a shell.
  """
  @spec signal(identity(), String.t()) :: :ok
  def signal({pid, _ticks} = identity, name) do
    if alive?(identity), do: System.cmd("kill", ["-#{name}", "#{pid}"], stderr_to_stdout: true)
    :ok
  end

  @doc "Signals several processes at once, with one kill(1)."
  @spec signal_all([identity()], String.t()) :: :ok
  def signal_all(identities, name) do
    case for {pid, _ticks} = identity <- identities, alive?(identity), do: "#{pid}" do
      [] -> :ok
      pids -> System.cmd("kill", ["-#{name}" | pids], stderr_to_stdout: true)
    end

    :ok
  end

  @doc """
  Kills processes so that none can act on the end of another, by stopping all of them first.
  Returns when they are gone.

  `ended_with` are the processes that end with them, a moment later.
  """
  @spec kill_together([identity()], [identity()]) :: :ok
  def kill_together(identities, ended_with \\ []) do
    signal_all(identities, "STOP")
    signal_all(identities, "KILL")
    gone? = fn -> not Enum.any?(identities ++ ended_with, &alive?/1) end

    if eventually(5_000, gone?) == nil,
      do: raise("not gone: #{inspect(identities ++ ended_with)}")

    :ok
  end

  @doc "Waits until the condition holds. Returns the milliseconds that took, or `nil` after `ms`."
  @spec eventually(non_neg_integer(), (() -> as_boolean(term()))) :: non_neg_integer() | nil
  def eventually(ms, condition) do
    began = System.monotonic_time(:millisecond)
    poll(began, began + ms, condition)
  end

  defp poll(began, deadline, condition) do
    met = condition.()
    now = System.monotonic_time(:millisecond)

    cond do
      met ->
        now - began

      now >= deadline ->
        nil

      true ->
        receive do
        after
          2 -> poll(began, deadline, condition)
        end
    end
  end
end
