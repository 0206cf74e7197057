defmodule Leash.Probe.WaitFor do
  # `wait_for:`: what a program needs before it is started.
  #
  # The Worker has its number already. So `Leash.stop_all/2` and the end of the application reach
  # a Worker that waits, and `Leash.list/1` shows it.
  @moduledoc false

  alias Leash.Probe
  alias Leash.Probe.Poll

  @type target :: Probe.t() | {:file, Path.t()}

  @doc "Returns what is expected."
  @spec expected() :: String.t()
  def expected do
    "#{Probe.addresses()}, {:file, path}, a function without arguments, " <>
      "{module, function, args}, or a list of these"
  end

  @doc "Returns the quoted type."
  @spec typespec() :: Macro.t()
  def typespec do
    one =
      quote do
        unquote(Probe.typespec())
        | {:file, Path.t()}
        | (() -> term())
        | {module(), atom(), [term()]}
      end

    quote(do: unquote(one) | [unquote(one)])
  end

  @doc "Checks the option, and returns a list."
  @spec check(term()) :: {:ok, [target()]} | {:error, String.t()}
  def check(value) do
    targets = List.wrap(value)

    if not List.improper?(targets) and Enum.all?(targets, &valid?/1),
      do: {:ok, targets},
      else: {:error, expected()}
  end

  defp valid?({:file, path}),
    do: is_binary(path) and path != "" and not String.contains?(path, <<0>>)

  defp valid?(target), do: Probe.valid?(target)

  @doc """
  Waits until each target in turn was there once, for so many milliseconds in all.

  `owner` is the process whose end also ends the calling one. A stop that comes meanwhile ends the
  wait.
  """
  @spec run([target()], timeout(), String.t(), pid() | nil) :: :ok | {:error, term()}
  def run(targets, ms, label, owner),
    do: each(targets, System.monotonic_time(:millisecond) + ms, label, owner)

  defp each([], _deadline, _label, _owner), do: :ok

  defp each([target | targets], deadline, label, owner) do
    case one(target, deadline, label, owner) do
      :ok -> each(targets, deadline, label, owner)
      {:error, reason} -> {:error, reason}
    end
  end

  defp one(target, deadline, label, owner) do
    # An alias, because an answer that comes too late must not stay in the mailbox.
    answer = :erlang.alias([:explicit_unalias])
    question = Poll.question(target, [], :wait_for, label)
    pid = Poll.start_link(question, self(), fn -> send(answer, {answer, :good}) end)
    result = await(answer, pid, deadline, owner)
    :erlang.unalias(answer)
    Process.unlink(pid)
    Process.exit(pid, :kill)
    flush(answer, pid)
    with :timeout <- result, do: {:error, {:wait_timeout, target}}
  end

  defp await(answer, pid, deadline, owner) do
    receive do
      {^answer, :good} ->
        :ok

      {:leash, {:stop, _from, _how}} ->
        {:error, :stopping}

      # It is answered when the process ends.
      {:"$gen_call", _from, {:stop, _how}} = call ->
        send(self(), call)
        {:error, :stopping}

      {:leash, {:fail_unhealthy, _number, reason}} ->
        {:error, reason}

      {:EXIT, ^owner, reason} ->
        {:error, reason}

      {:EXIT, other, reason} when other != pid and reason != :normal ->
        {:error, reason}
    after
      max(0, deadline - System.monotonic_time(:millisecond)) -> :timeout
    end
  end

  defp flush(answer, pid) do
    receive do
      {^answer, :good} -> flush(answer, pid)
      {:EXIT, ^pid, _reason} -> flush(answer, pid)
    after
      0 -> :ok
    end
  end
end
