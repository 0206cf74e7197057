defmodule Leash.Degraded.Command do
  # The program of `Leash.cmd/3` and the streams on a plain port. `Leash.Command` hands its calls
  # to this module, whose events are the same.
  @moduledoc false

  alias Leash.Degraded.{Keeper, Program}

  # After the end of the group, something outside of it may still hold the output.
  @quiet_ms 200

  @enforce_keys [:owner, :program, :files]
  defstruct [:owner, :program, :files, :exited, :kept, ended_by: nil, over?: false, data: ""]

  @type t :: %__MODULE__{
          owner: pid(),
          program: Program.t(),
          files: %{optional(:stdin | :stderr) => Path.t()},
          exited: {:status, non_neg_integer()} | nil,
          kept: Keeper.outcome() | nil,
          ended_by: :ladder | :kill | nil,
          over?: boolean(),
          data: binary()
        }

  @doc "See `Leash.Command.start/1`."
  @spec start(map()) :: {:ok, t()} | {:error, term()}
  def start(options) do
    files = files(options)

    with {:ok, program} <- Program.start(:command, options, files),
         do: {:ok, %__MODULE__{owner: self(), program: program, files: files}}
  end

  # A port cannot close stdin alone, and has no second pipe for stderr.
  defp files(options) do
    stdin = if options.input == nil, do: %{}, else: %{stdin: written(options.input)}
    if options.stderr == :output, do: Map.put(stdin, :stderr, written("")), else: stdin
  end

  defp written(input) do
    name = "leash-#{System.pid()}-#{Integer.to_string(:rand.uniform(0xFFFFFFFFFFFF), 36)}"
    path = Path.join(System.tmp_dir!(), name)
    file = File.open!(path, [:write, :exclusive, :raw])
    :ok = File.chmod(path, 0o600)
    # A stream of parts is written part by part, and anything else is iodata.
    parts = if is_binary(input) or is_list(input), do: [input], else: input
    Enum.each(parts, &(:ok = :file.write(file, &1)))
    :ok = File.close(file)
    path
  end

  @doc "See `Leash.Command.next/3`."
  @spec next(t(), pos_integer(), integer() | :infinity) :: Leash.Command.event()
  def next(%{data: ""} = command, max, deadline) do
    cond do
      command.over? -> {:ended, how(command), released(command)}
      command.kept != nil and command.exited != nil -> last(command, max)
      true -> await(command, max, deadline)
    end
  end

  def next(%{data: data} = command, max, _deadline) when byte_size(data) <= max,
    do: {:data, :stdout, data, %{command | data: ""}}

  def next(%{data: data} = command, max, _deadline) do
    rest = binary_part(data, max, byte_size(data) - max)
    {:data, :stdout, binary_part(data, 0, max), %{command | data: rest}}
  end

  defp await(command, max, deadline) do
    %{program: %{port: port, keeper: keeper, monitor: monitor}} = command

    receive do
      {^port, {:data, data}} ->
        next(%{command | data: data}, max, deadline)

      {^port, {:exit_status, status}} ->
        next(exited(command, status), max, deadline)

      {:leash_kept, ^keeper, outcome} ->
        next(%{command | kept: outcome}, max, deadline)

      {:DOWN, ^monitor, :process, _pid, _reason} ->
        next(%{command | kept: command.kept || :left}, max, deadline)
    after
      patience(command, deadline) ->
        if command.kept == nil, do: {:timeout, command}, else: last(command, max)
    end
  end

  defp patience(%{kept: nil}, :infinity), do: :infinity
  defp patience(%{kept: nil}, deadline), do: max(0, deadline - now())
  defp patience(_ended, _deadline), do: @quiet_ms

  # Its background processes end with it.
  defp exited(command, status) do
    if command.ended_by == nil, do: Keeper.finish(command.program.keeper, :ladder)
    %{command | exited: {:status, status}}
  end

  # What was captured comes right before the end.
  defp last(command, max) do
    command = %{command | over?: true}

    case command.files do
      %{stderr: path} -> captured(File.read!(path), command, max)
      _none -> next(command, max, :infinity)
    end
  end

  defp captured("", command, max), do: next(command, max, :infinity)
  defp captured(data, command, _max), do: {:data, :stderr, data, command}

  defp how(%{ended_by: nil, exited: exited}) when exited != nil, do: {:by_itself, exited}
  defp how(%{exited: exited}), do: {:ended, exited || {:signal, :sigkill}}

  defp released(command) do
    %{port: port, monitor: monitor} = command.program
    Process.demonitor(monitor, [:flush])
    if Port.info(port), do: Port.close(port)
    Enum.each(command.files, fn {_stream, path} -> File.rm(path) end)
    command
  end

  @doc "See `Leash.Command.finish/2`."
  @spec finish(t(), :ladder | :kill) :: t()
  def finish(command, how) do
    Keeper.finish(command.program.keeper, how)
    %{command | ended_by: command.ended_by || how}
  end

  @doc "See `Leash.Command.abort/2`."
  @spec abort(t(), :ladder | :kill) :: Leash.Command.ended()
  def abort(command, how), do: command |> finish(how) |> drain()

  defp drain(command) do
    case next(%{command | data: ""}, 65_536, :infinity) do
      {:data, _stream, _data, command} -> drain(command)
      {:ended, how, _command} -> how
    end
  end

  @doc "See `Leash.Command.abandon/1`."
  @spec abandon(t()) :: :ok
  def abandon(command), do: Keeper.finish(command.program.keeper, :ladder)

  defp now, do: System.monotonic_time(:millisecond)
end
