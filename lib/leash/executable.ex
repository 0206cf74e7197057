defmodule Leash.Executable do
  # Finds the program of a command, and checks whether it can be executed.
  @moduledoc false

  alias Leash.Native

  @type problem ::
          :not_in_path
          | :no_working_directory
          | {:type, :device | :directory | :other}
          | Native.posix()

  @doc """
  Returns the absolute path of a program.

  A name without a slash is looked up in `PATH`. A relative path starts at `directory`, or at the
  VM's directory if that is nil.
  """
  @spec find(String.t(), String.t() | nil) :: {:ok, String.t()} | {:error, problem()}
  def find(command, directory) do
    with {:ok, path} <- path(command, directory), do: check(path)
  end

  @doc """
  Finds a program like `find/2`, from the VM's directory.

  Raises the errors of `System.cmd/3` and `Port.open/2`. If the command is a line, then the
  message says that its arguments are given apart.
  """
  @spec find!(String.t()) :: String.t()
  def find!(command) do
    case find(command, nil) do
      {:ok, path} -> path
      {:error, :no_working_directory} -> raise Leash.Error, reason: {:shim, :no_working_directory}
      {:error, :not_in_path} -> refuse!(:enoent, command)
      {:error, {:type, _no_program}} -> refuse!(:eacces, command)
      {:error, reason} -> refuse!(reason, command)
    end
  end

  # The error itself is that of `System.cmd/3`, without a word about the program.
  @spec refuse!(term(), String.t()) :: no_return()
  defp refuse!(reason, command),
    do: :erlang.error(reason, [command], error_info: %{module: __MODULE__})

  @doc "Returns program and arguments of a line that was given as a program, or nil."
  @spec words(String.t()) :: {String.t(), [String.t(), ...]} | nil
  def words(command) do
    case String.split(command) do
      [program | [_ | _] = args] -> {program, args}
      _no_line -> nil
    end
  end

  @doc false
  # See `:erlang.error/3`.
  @spec format_error(term(), Exception.stacktrace()) :: %{general: String.t()}
  def format_error(reason, [{__MODULE__, _function, [command], _location} | _callers]),
    do: %{general: sentence(reason, command, words(command))}

  defp sentence(:enoent, _command, {program, args}),
    do: "program and arguments are given apart: #{inspect(program)}, #{inspect(args)}"

  defp sentence(:enoent, command, nil) do
    if String.contains?(command, "/"),
      do: "there is no file #{inspect(command)}",
      else: "there is no program #{inspect(command)} in PATH"
  end

  defp sentence(:eacces, command, _words),
    do: "#{inspect(command)} is not an executable file: chmod +x, or name its interpreter"

  defp sentence(reason, command, _words), do: "#{inspect(command)} cannot be executed: #{reason}"

  # Unchanged: the kernel resolves `..` behind a symbolic link, and Path.expand/1 does not.
  defp path("/" <> _ = command, _directory), do: {:ok, command}

  defp path(command, directory) do
    if String.contains?(command, "/"),
      do: from(directory || "", command),
      else: in_path(System.find_executable(command))
  end

  defp from("/" <> _ = directory, command), do: {:ok, Path.expand(command, directory)}

  defp from(directory, command) do
    case File.cwd() do
      {:ok, cwd} -> {:ok, directory |> Path.expand(cwd) |> then(&Path.expand(command, &1))}
      {:error, _gone} -> {:error, :no_working_directory}
    end
  end

  defp in_path(nil), do: {:error, :not_in_path}
  defp in_path(path), do: {:ok, path}

  # The check avoids :file.read_file_info/2, which wakes a dirty scheduler. That took longer than
  # all other checks of a start.
  defp check(path), do: with(:ok <- Native.executable(path), do: {:ok, path})
end
