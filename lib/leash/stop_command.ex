defmodule Leash.StopCommand do
  # A command as a step of the ladder, `{:cmd, [program | args], ms}`: its check, the shim's
  # arguments for it, and the name of its result.
  @moduledoc false

  alias Leash.{Executable, OptionsError, Posix, Schema, Signal}

  # The shim has room for this many, the program included; native/PROTOCOL.md, section 1.
  @max_arguments 32

  # execve(2): one argument holds at most 32 pages (MAX_ARG_STRLEN), its NUL included.
  @longest_argument 131_071

  @type t :: [String.t(), ...]

  @typedoc """
  The result of a command: how it ended, or why it could not be started.

  The result is nil if there is no report, because the command was killed with the rest of the
  tree, or the shim was killed.
  """
  @type result ::
          {:status, 0..255} | {:signal, Signal.t()} | {:error, Posix.t()} | nil

  @typedoc "A step as it is reported: the command, or its index in the ladder."
  @type step :: {:cmd, t() | byte() | nil}

  @doc false
  @spec max_arguments() :: pos_integer()
  def max_arguments, do: @max_arguments

  @doc """
  Returns whether it is a program and its arguments.

  `resolve/2` checks whether the program exists.
  """
  @spec valid?(term()) :: boolean()
  def valid?([program | args] = command),
    do:
      List.improper?(command) == false and length(args) < @max_arguments and
        Schema.text?(program) and Enum.all?(args, &argument?/1)

  def valid?(_other), do: false

  defp argument?(argument) do
    is_binary(argument) and byte_size(argument) <= @longest_argument and
      :binary.match(argument, <<0>>) == :nomatch
  end

  @doc """
  Returns the command with its program's absolute path, looked up as a worker's own program is.

  So a missing program is an error before anything starts, and not when it is needed.
  """
  @spec resolve(t(), String.t() | nil) :: {:ok, t()} | {:error, OptionsError.t()}
  def resolve([program | args], directory) do
    case Executable.find(program, directory) do
      {:ok, path} -> {:ok, [path | args]}
      {:error, problem} -> Schema.error(:stop, expected(problem), {:cmd, [program | args]})
    end
  end

  defp expected(:not_in_path), do: "a command whose program is in PATH (enoent)"

  defp expected(:no_working_directory),
    do: "a command whose program is an absolute path (the VM's working directory was deleted)"

  defp expected({:type, type}),
    do: "a command whose program is an executable file (it is a #{type})"

  defp expected({:errno, number}),
    do: "a command whose program is an executable file (errno #{number})"

  defp expected(reason), do: "a command whose program is an executable file (#{reason})"

  @doc "Returns the shim's arguments for commands, in order, to stand directly before its `--`."
  @spec arguments([t()]) :: [String.t()]
  def arguments(commands),
    do: Enum.flat_map(commands, &["--step=#{length(&1)}" | &1])

  @doc "Returns the result of a command from the shim's report."
  @spec result(0..3, byte(), non_neg_integer()) :: result()
  def result(0, _status, errno), do: {:error, Posix.name(errno)}
  def result(1, status, _errno), do: {:status, status}
  def result(_killed_or_dumped, signal, _errno), do: {:signal, Signal.name(signal)}
end
