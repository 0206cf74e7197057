defmodule Leash.ExecutableTest do
  use ExUnit.Case, async: true

  import Leash.Test.Case, only: [tmp_dir!: 0]

  alias Leash.{Executable, Native}

  setup do
    {:ok, dir: tmp_dir!()}
  end

  defp file(dir, name, mode) do
    path = Path.join(dir, name)
    File.write!(path, "")
    File.chmod!(path, mode)
    path
  end

  test "a regular file with any execute permission can be a program", %{dir: dir} do
    for mode <- [0o755, 0o700, 0o010, 0o001] do
      path = file(dir, "program-#{mode}", mode)
      assert Native.executable(path) == :ok
      assert Executable.find(path, nil) == {:ok, path}
    end

    assert Native.executable(file(dir, "data", 0o644)) == {:error, :eacces}
    assert Native.executable(file(dir, "set-uid data", 0o4644)) == {:error, :eacces}
  end

  test "other types are named as :file names them", %{dir: dir} do
    fifo = Path.join(dir, "fifo")
    {"", 0} = System.cmd("mkfifo", ["-m", "755", fifo])

    for path <- [dir, "/dev/null", fifo] do
      {:ok, info} = :file.read_file_info(path, [:raw])
      assert Native.executable(path) == {:error, {:type, elem(info, 2)}}
    end
  end

  test "symbolic links are followed", %{dir: dir} do
    program = file(dir, "program", 0o755)
    link = Path.join(dir, "link")
    File.ln_s!(program, link)
    assert Executable.find(link, nil) == {:ok, link}

    File.rm!(program)
    assert Native.executable(link) == {:error, :enoent}

    loop = Path.join(dir, "loop")
    File.ln_s!("loop", loop)
    assert Native.executable(loop) == {:error, :eloop}
  end

  test "what the kernel refuses is its error", %{dir: dir} do
    data = file(dir, "data", 0o644)

    for path <- [dir <> "/none", data <> "/x", dir <> "/" <> String.duplicate("x", 256), ""] do
      assert {:error, reason} = :file.read_file_info(path, [:raw])
      assert Native.executable(path) == {:error, reason}
    end
  end

  test "a path is bytes, and none of them NUL", %{dir: dir} do
    path = file(dir, <<"n", 0xFF, "me">>, 0o755)
    assert Native.executable(path) == :ok

    # The path is so long that it does not fit a buffer on the stack.
    long = Enum.reduce(1..12, dir, fn _, dir -> Path.join(dir, String.duplicate("d", 50)) end)
    File.mkdir_p!(long)
    assert Native.executable(file(long, "program", 0o755)) == :ok

    assert Native.executable(path <> <<0>>) == {:error, :einval}
    assert_raise ArgumentError, fn -> Native.executable(String.to_charlist(dir)) end
  end

  test "a relative path is looked for from the directory given", %{dir: dir} do
    path = file(dir, "program", 0o755)
    assert Executable.find("./program", dir) == {:ok, path}
    assert Executable.find("./program", "/") == {:error, :enoent}
    assert Executable.find("no-such-program-here", dir) == {:error, :not_in_path}
  end
end
